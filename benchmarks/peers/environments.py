"""Pinned environments of contenders: made from benchmarks/locks/NAME.txt, on demand, and kept.

Each lock is complete and has the hash of every file, so an environment made next year holds what was measured.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROJECT = Path(__file__).resolve().parent.parent.parent
LOCKS = _PROJECT / "benchmarks" / "locks"
OUR_SOURCES = _PROJECT / "edge"
INSTALL_S = 600
_MARK = "lock.sha256"
_HEAD = "# Written by benchmarks/serving.py --lock; do not edit.\n"
_PYTHON, _PLATFORM = "3.11", "x86_64-manylinux_2_35"
_ONNXRUNTIME = "onnxruntime==1.23.2"


class NoEnvironment(Exception):
    """An environment cannot be made; says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One contender's: what it asks for, and how much disk it takes, in MB, as measured once.

    One that asks for nothing has a lock which is written elsewhere, in ``pinned``.
    """

    name: str
    requirements: tuple[str, ...]
    megabytes: int
    pinned: Path | None = None

    @property
    def lock(self) -> Path:
        return self.pinned or LOCKS / f"{self.name}.txt"

    def versions(self, *names: str) -> dict[str, str]:
        """What the lock pins of these distributions."""
        pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", self.lock.read_text(), re.MULTILINE))
        return {name: pins[name] for name in names if name in pins}

    def python(self, folder: Path) -> Path:
        """The environment's Python below ``folder``, made if it is not there or its lock has changed since.

        Raises:
            NoEnvironment: with the installer's last lines.
        """
        place = folder / self.name
        python, mark = place / "bin" / "python", place / _MARK
        digest = hashlib.sha256(self.lock.read_bytes()).hexdigest()
        if python.exists() and mark.is_file() and mark.read_text() == digest:
            return python
        count = len(re.findall(r"^\S+==", self.lock.read_text(), re.MULTILINE))
        print(
            f"{self.name}: installing {count} distributions from {self.lock.relative_to(_PROJECT)}, about "
            f"{self.megabytes} MB on disk, into {place} (once)",
            flush=True,
        )
        shutil.rmtree(place, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(place))
        _uv("pip", "install", "--quiet", "--python", str(python), "--require-hashes", "--no-deps", "-r", str(self.lock))
        mark.write_text(digest)
        return python

    def write_lock(self) -> None:
        """Resolve the requirements and write the lock anew. Raises NoEnvironment."""
        if self.pinned is not None:
            return
        done = _uv(
            *("pip", "compile", "-", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--python-version", _PYTHON, "--python-platform", _PLATFORM, "--only-binary", ":all:"),
            given="\n".join((*self.requirements, _ONNXRUNTIME)) + "\n",
        )
        self.lock.parent.mkdir(exist_ok=True)
        self.lock.write_text(_HEAD + done)


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("hybridge", (), 212, _PROJECT / "locks" / "edge-amd64-py311.txt"),  # as on a device
        Environment("kserve", ("kserve==0.21.0",), 385),
        Environment("mlserver", ("mlserver==1.7.1",), 307),
        Environment("litserve", ("litserve==0.2.19",), 176),
        Environment("bentoml", ("bentoml==1.4.40",), 197),
        Environment("pytriton", ("nvidia-pytriton==0.7.0",), 387),
    )
}


def _uv(*arguments: str, given: str = "") -> str:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "uv", *arguments], input=given, text=True, capture_output=True, timeout=INSTALL_S
        )
    except subprocess.TimeoutExpired:
        raise NoEnvironment(f"uv {arguments[0]} took longer than {INSTALL_S} s.") from None
    if done.returncode:
        raise NoEnvironment(f"uv {' '.join(arguments[:2])}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
    return done.stdout
