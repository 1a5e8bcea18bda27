"""What a kind of device can run and how it should: the JSON files in this folder. Format 1."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, parse
from hybridge_edge.contract.errors import InvalidDocument, Refused, UsageError

FORMAT = 1
MAX_TARGET_BYTES = 16 * 1024
MAX_THREADS = 64
NAMES = ("x86-cuda13", "cpu-amd64", "cpu-aarch64", "snowball-edge")
"""The targets this version knows; where a device fits several, the first."""
ADDRESSING = ("auto", "path", "virtual")
CHECKSUMS = ("sha256", "none")


def usable_cores() -> int:
    """Cores that this process may run on: a cgroup or ``taskset`` may leave it fewer than the machine has."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """What the object store that such a device uses takes, where it is not S3 of its region.

    Attributes:
        region: that requests are signed for, "" for the device's own. addressing: one of ADDRESSING, where a bucket's
            name stands. checksums: one of CHECKSUMS, what is sent beside the signed digest of the content.
        conditional_writes: whether it knows ``If-None-Match: *``.
    """

    region: str = ""
    addressing: str = ADDRESSING[0]
    checksums: str = CHECKSUMS[0]
    conditional_writes: bool = True

    def __post_init__(self) -> None:
        if self.addressing not in ADDRESSING or self.checksums not in CHECKSUMS:
            raise InvalidDocument(
                f"An object store has {self.addressing[:20]!r} addressing and {self.checksums[:20]!r} checksums.",
                f"Addressing: {', '.join(ADDRESSING)}. Checksums: {', '.join(CHECKSUMS)}.",
            )

    @classmethod
    def read(cls, reader: Reader) -> ObjectStore:
        return cls(
            region=reader.text("region"),
            addressing=reader.text("addressing"),
            checksums=reader.text("checksums"),
            conditional_writes=reader.boolean("conditional_writes"),
        )


STANDARD = ObjectStore()


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of device.

    Attributes:
        architecture: what ``uname -m`` says. python: versions that it was tried with, MAJOR.MINOR.
        providers: ONNX Runtime execution providers, the best first: a package runs on the first that it has a variant
            for, and every later one is a fall-back that is reported as degraded.
        libraries: shared libraries that the first provider needs.
        runtime_minimum, runtime_below: versions of ONNX Runtime, MAJOR.MINOR; the second is excluded.
        opset, ir_version: the largest that a graph may use (ONNX's default operator set, and its file format).
        threads: intra-op threads of one run, 0 for every core. spinning: whether they spin while they wait.
        model_memory_share: of the device's memory, that loaded models may hold together, 0 to 1.
        memory_reserve_megabytes, disk_reserve_megabytes: MiB that stay free for everything else.
        object_store: what the uplink and ``install`` go by where they are told this target.
    """

    name: str
    description: str
    architecture: str
    python: tuple[str, ...]
    providers: tuple[str, ...]
    libraries: tuple[str, ...]
    runtime_minimum: str
    runtime_below: str
    opset: int
    ir_version: int
    threads: int
    spinning: bool
    model_memory_share: float
    memory_reserve_megabytes: int
    disk_reserve_megabytes: int
    object_store: ObjectStore = STANDARD

    def __post_init__(self) -> None:
        if not self.providers or not self.python:
            raise InvalidDocument(f"The target {self.name!r} names no provider, or no Python.")
        if not 0.0 < self.model_memory_share <= 1.0:
            raise InvalidDocument(f"The target {self.name!r} gives models {self.model_memory_share} of the memory.")
        if release(self.runtime_minimum) >= release(self.runtime_below):
            raise InvalidDocument(f"The target {self.name!r} allows no version of ONNX Runtime.")

    def threads_of_a_run(self, asked: int) -> int:
        """Intra-op threads: ``asked`` where it is not 0, else as the target says."""
        return asked or self.threads or usable_cores()

    def takes_runtime(self, version: str) -> bool:
        """Whether this version of ONNX Runtime is in the target's range."""
        return release(self.runtime_minimum) <= release(version) < release(self.runtime_below)

    def takes_python(self, version: str) -> bool:
        return version in self.python

    @classmethod
    def from_bytes(cls, data: bytes) -> Target:
        """Read an entry, or raise InvalidDocument with the field and the reason."""
        reader = parse(data, "target", MAX_TARGET_BYTES)
        reader.format(FORMAT)
        target = cls(
            name=reader.text("name", check=names.model_name),
            description=reader.text("description"),
            architecture=reader.text("architecture"),
            python=reader.strings("python"),
            providers=reader.strings("providers"),
            libraries=reader.strings("libraries"),
            runtime_minimum=reader.text("runtime_minimum"),
            runtime_below=reader.text("runtime_below"),
            opset=reader.integer("opset", minimum=1),
            ir_version=reader.integer("ir_version", minimum=1),
            threads=reader.integer("threads", maximum=MAX_THREADS),
            spinning=reader.boolean("spinning"),
            model_memory_share=reader.number("model_memory_share"),
            memory_reserve_megabytes=reader.integer("memory_reserve_megabytes"),
            disk_reserve_megabytes=reader.integer("disk_reserve_megabytes"),
            object_store=reader.object("object_store", ObjectStore.read)
            if "object_store" in reader.names()
            else STANDARD,
        )
        reader.close()
        return target


def release(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as 1.23.2 or 1.23.0+cu13. Raises InvalidDocument where it has none."""
    parts = version.split("+")[0].split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise InvalidDocument(f"{version[:40]!r} is not a version.", "Write MAJOR.MINOR.")
    return int(parts[0]), int(parts[1])


def named(name: str) -> Target:
    """The target of that name. Raises UsageError, with the names there are."""
    if name not in NAMES:
        raise UsageError(f"There is no target {name[:64]!r}.", f"Targets: {', '.join(NAMES)}.")
    return Target.from_bytes(resources.files(__package__).joinpath(f"{name}.json").read_bytes())


def detect(machine: str, available: Sequence[str]) -> Target:
    """The target of a machine, by its architecture and what its ONNX Runtime was built for.

    Args:
        machine: what ``uname -m`` says. available: execution providers of the installed ONNX Runtime.

    Raises:
        Refused: it is of no kind that this version knows.
    """
    for name in NAMES:
        target = named(name)
        if target.architecture == machine and target.providers[0] in available:
            return target
    raise Refused(
        f"No target fits this device: {machine}, with {', '.join(available) or 'no ONNX Runtime'}.",
        f"Install ONNX Runtime for one of the targets {', '.join(NAMES)}.",
    )


def choose(name: str) -> Target:
    """The target that was named, or the one found out where ``name`` is "".

    Raises:
        UsageError: there is none of that name, or it is of another architecture. Refused: none fits.
    """
    machine = platform.machine()
    if name:
        target = named(name)
        if target.architecture != machine:
            raise UsageError(
                f"The target {name} is for {target.architecture}; this machine is {machine}.",
                "Correct the setting target, or leave it empty.",
            )
        return target
    from hybridge_edge.engines import onnx

    return detect(machine, onnx.available_providers())
