"""What wheels are chosen for: an architecture in Greengrass's words and a Python, on Linux with glibc.

Tags are those of packaging.python.org/specifications/platform-compatibility-tags; ``manylinux_2_35`` and older are
taken, since JetPack 6 (Ubuntu 22.04) has glibc 2.35.
"""

from __future__ import annotations

import itertools
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hybridge_edge.contract.errors import UsageError

MACHINES = {"amd64": "x86_64", "aarch64": "aarch64"}
"""Greengrass's word for an architecture, and the one that wheels and ``uname -m`` use."""
PYTHONS = ("3.10", "3.11", "3.12")
"""JetPack 6 has 3.10, Debian 12 3.11, JetPack 7 3.12."""
GLIBC = (2, 35)
_LEGACY = {"manylinux2014": (2, 17), "manylinux2010": (2, 12), "manylinux1": (2, 5)}
_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
CEILINGS: dict[tuple[str, str], dict[str, tuple[int, int]]] = {
    ("aarch64", "3.10"): {"onnxruntime": (1, 23), "numpy": (2, 2)},
}
"""The newest MAJOR.MINOR that a kind of device runs: JetPack 6."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One (architecture, Python); ``python`` is MAJOR.MINOR."""

    architecture: str
    python: str

    def __post_init__(self) -> None:
        if self.architecture not in MACHINES:
            raise UsageError(
                f"There are no wheelhouses for the platform {self.architecture!r}.",
                f"Name one of {', '.join(MACHINES)}.",
            )
        if self.python not in PYTHONS:
            raise UsageError(
                f"There are no wheelhouses for Python {self.python!r}.", f"Name one of {', '.join(PYTHONS)}."
            )

    @property
    def machine(self) -> str:
        return MACHINES[self.architecture]

    @property
    def digits(self) -> str:
        """``310`` for Python 3.10."""
        return self.python.replace(".", "")

    @property
    def lock(self) -> str:
        """The name of its lock below locks/."""
        return f"edge-{self.architecture}-py{self.digits}.txt"

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags that it takes, the newest glibc first."""
        older = {version: f"{name}_{self.machine}" for name, version in _LEGACY.items()}
        tags: list[str] = []
        for minor in range(GLIBC[1], 4, -1):
            tags.append(f"manylinux_2_{minor}_{self.machine}")
            tags.extend([older[2, minor]] if (2, minor) in older else [])
        return (*tags, f"linux_{self.machine}")

    def tags(self) -> tuple[str, ...]:
        """All tags that it takes, the best first."""
        from packaging import tags

        version = (int(self.python.split(".")[0]), int(self.python.split(".")[1]))
        # linux_ARCH says nothing of the glibc that it needs, so no published wheel has it.
        platforms = self.platforms[:-1]
        found = itertools.chain(
            tags.cpython_tags(version, [f"cp{self.digits}"], platforms),
            tags.compatible_tags(version, f"cp{self.digits}", platforms),
        )
        return tuple(str(tag) for tag in found)

    def __str__(self) -> str:
        return f"{self.architecture}, Python {self.python}"


def here() -> Target:
    """This machine and this interpreter. Raises UsageError where no wheelhouses are made for them."""
    words = {machine: word for word, machine in MACHINES.items()}
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Target(words.get(platform.machine(), platform.machine()), version)


def targets(platforms: Sequence[str], pythons: Sequence[str]) -> tuple[Target, ...]:
    """Each platform with each Python; this machine's where none is named. Raises UsageError."""
    if len(set(platforms)) != len(platforms) or len(set(pythons)) != len(pythons):
        raise UsageError("A platform or a Python is named twice.", "Name each once.")
    both = [(one, python) for one in platforms or (here().architecture,) for python in pythons or (here().python,)]
    return tuple(sorted((Target(*pair) for pair in both), key=lambda one: (one.architecture, int(one.digits))))


def every() -> tuple[Target, ...]:
    """All there are."""
    return targets(tuple(MACHINES), PYTHONS)


def needed_glibc(platform_tag: str) -> tuple[int, int]:
    """The glibc that a platform tag asks for; (0, 0) where it asks for none."""
    found = _MANYLINUX.match(platform_tag)
    if found:
        return int(found[1]), int(found[2])
    return _LEGACY.get(platform_tag.split("_")[0], (0, 0))
