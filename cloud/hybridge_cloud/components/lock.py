"""The locks of wheelhouses: one a target, and in it exactly one wheel a distribution, by name, size and sha256.

scripts/lock writes them, and pip could read them too::

    numpy==2.2.6 --hash=sha256:...  # numpy-2.2.6-cp310-cp310-manylinux_2_17_aarch64.manylinux2014_aarch64.whl 14297320

The wheel is chosen when the lock is written, so that every machine builds the same zip from the same commit, and so
that a lock can be checked without downloading anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import checkout
from hybridge_cloud.components.target import CEILINGS, Target, needed_glibc
from hybridge_edge.contract.errors import InvalidDocument, Refused

_ENTRY = re.compile(r"(\S+)==(\S+) --hash=sha256:([0-9a-f]{64})  # (\S+) (\d+)\n")
_RELOCK = "Run scripts/lock and commit what it writes."


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution of a lock: normalised name, version, and its wheel's file name, size in bytes and sha256."""

    name: str
    version: str
    wheel: str
    size: int
    sha256: str

    @property
    def line(self) -> str:
        """As pip reads it in a list of requirements."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n"

    @property
    def entry(self) -> str:
        """As it stands in a lock."""
        return f"{self.line.rstrip()}  # {self.wheel} {self.size}\n"


def read(target: Target) -> Mapping[str, Pin]:
    """The pins of a target by normalised name, each checked to be for it.

    Raises:
        InvalidDocument: the lock cannot be read. Refused: it names a wheel that the target does not run.
    """
    path = checkout.root() / "locks" / target.lock
    if not path.is_file():
        raise InvalidDocument(f"There is no locks/{target.lock}.", _RELOCK)
    pins = {pin.name: pin for pin in parse(path)}
    check(pins.values(), target)
    return pins


def parse(path: Path) -> tuple[Pin, ...]:
    """The entries of a lock; what is neither an entry nor its heading is refused with InvalidDocument."""
    _, _, text = path.read_text().partition("\n")
    pins = tuple(
        Pin(normal(name), version, wheel, int(size), digest)
        for name, version, digest, wheel, size in _ENTRY.findall(text)
    )
    if not pins or _ENTRY.sub("", text).strip():
        raise InvalidDocument(f"{path.name} holds something that is no entry of a lock.", _RELOCK)
    return pins


def check(pins: Iterable[Pin], target: Target) -> None:
    """Refuse a pin whose wheel is not of its name and version, is not for the target, or is too new for it."""
    ceilings = CEILINGS.get((target.architecture, target.python), {})
    for pin in pins:
        check_wheel_name(pin.wheel, target)
        name, version = pin.wheel.split("-")[:2]
        if (normal(name), version) != (pin.name, pin.version):
            raise Refused(f"locks/{target.lock} pins {pin.name} {pin.version} to {pin.wheel}.", _RELOCK)
        most = ceilings.get(pin.name)
        if most and tuple(int(part) for part in pin.version.split(".")[:2]) > most:
            raise Refused(
                f"{pin.name} {pin.version} is too new for {target}: {most[0]}.{most[1]} is the newest that runs there.",
                f"Bound it in scripts/lock, and then: {_RELOCK}",
            )


def check_wheel_name(wheel: str, target: Target) -> tuple[int, int]:
    """The glibc that a wheel needs by its name's tags.

    Raises:
        Refused: it is no wheel, or for another Python, architecture or a newer glibc.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        _, _, _, tags = parse_wheel_filename(wheel)
    except InvalidWheelFilename:
        raise Refused(
            f"{wheel} is no wheel, and a device builds nothing from source.", "Take a version that has a wheel."
        ) from None
    taken = set(target.tags())
    fitting = [tag for tag in tags if str(tag) in taken]
    if not fitting:
        raise Refused(
            f"{wheel} is not for {target} with glibc 2.35 or older.",
            "Take a version that has a wheel for it, or leave the distribution out of wheels.txt.",
        )
    return min(needed_glibc(tag.platform) for tag in fitting)


def normal(name: str) -> str:
    """A distribution's name as indexes compare it (packaging.python.org/specifications/name-normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()
