"""Wheels of a lock, from a cache on this machine or else from its package index, for whatever target.

The cache is HYBRIDGE_CACHE, else ~/.cache/hybridge: only the first build for a target needs a network.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hybridge_cloud.components.lock import Pin
from hybridge_cloud.components.target import Target
from hybridge_edge.contract.errors import Unavailable

TIMEOUT_SECONDS = 900
_READ_BYTES = 1024 * 1024


def cache_folder(target: Target) -> Path:
    """Where wheels of a target are kept; made if need be."""
    base = Path(os.environ.get("HYBRIDGE_CACHE") or Path.home() / ".cache" / "hybridge")
    folder = base / "wheels" / f"cp{target.digits}-linux-{target.machine}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing(pins: Sequence[Pin], target: Target) -> tuple[Pin, ...]:
    """Those that ``fetch`` would download."""
    folder = cache_folder(target)
    return tuple(pin for pin in pins if not _cached(folder, pin))


def fetch(pins: Sequence[Pin], target: Target) -> tuple[Path, ...]:
    """The wheels of these pins, each the very file that the lock names.

    Raises:
        Unavailable: the index does not answer or does not have them.
    """
    folder = cache_folder(target)
    wanted = [pin for pin in pins if not _cached(folder, pin)]
    if wanted:
        _download(folder, wanted, target)
    return tuple(folder / pin.wheel for pin in pins)


def _cached(folder: Path, pin: Pin) -> bool:
    path = folder / pin.wheel
    return path.is_file() and path.stat().st_size == pin.size and digest(path) == pin.sha256


def _download(folder: Path, pins: Sequence[Pin], target: Target) -> None:
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        wanted = Path(temporary) / "requirements.txt"
        wanted.write_text("".join(pin.line for pin in pins))
        # pip takes the platform tags that it is given and no older ones, so all are given.
        platforms = [word for tag in target.platforms for word in ("--platform", tag)]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--python-version", target.python, "--implementation", "cp", *platforms,
                   "--require-hashes", "-r", str(wanted), "-d", temporary]  # fmt: skip
        names = ", ".join(pin.name for pin in pins)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise Unavailable(f"The package index took longer than {TIMEOUT_SECONDS} s.", "Try again.") from None
        if done.returncode:
            errors = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")]
            said = errors[-1] if errors else "no reason was given"
            raise Unavailable(
                f"Wheels of {names} for {target} could not be downloaded: {said.removeprefix('ERROR: ')}",
                "Check the network and pip's index settings, and try again.",
            )
        for pin in pins:
            found = Path(temporary) / pin.wheel
            if not _cached(Path(temporary), pin):
                raise Unavailable(
                    f"The package index gave no {pin.wheel} as locks/{target.lock} names it.",
                    "Use an index that has it, or run scripts/lock and commit what it writes.",
                )
            found.replace(folder / pin.wheel)


def digest(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
