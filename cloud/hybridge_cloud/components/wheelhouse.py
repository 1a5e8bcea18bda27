"""A component's wheels: the pinned ones of the lock, our own device wheel, pip's; and the zip they travel in.

Downloaded wheels are kept in a cache (HYBRIDGE_CACHE, else ~/.cache/hybridge): only the first build needs a network.
The same wheels always make the same zip, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.components import checkout
from hybridge_edge.contract.errors import InvalidDocument, Refused, Unavailable

DOWNLOAD_TIMEOUT_SECONDS = 900
BUILD_TIMEOUT_SECONDS = 120
REQUIREMENTS = "requirements.txt"
IMPORTS = "imports.txt"
INSTALLER = "install.py"
_PIP = "pip"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest moment a zip can name: our zips do not say when they were made."""
_SOURCE_DATE = "315619200"
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pin:
    """One distribution of a lock: normalised name, version, and the sha256 of every file that may be it."""

    name: str
    version: str
    hashes: frozenset[str]

    @property
    def lines(self) -> str:
        return " ".join(
            [f"{self.name}=={self.version}", *(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))]
        )


@dataclass(frozen=True, slots=True)
class WheelList:
    """What a component needs: names of distributions, and modules that must import once they are installed."""

    distributions: tuple[str, ...]
    imports: tuple[str, ...]


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock with hashes, by normalised name."""
    pins = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", path.read_text()):
        found = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        if found:
            hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
            pins[_normal(found[1])] = Pin(_normal(found[1]), found[2], hashes)
    return pins


def read_list(path: Path) -> WheelList:
    """Read a ``wheels.txt``: a distribution and a module a line, ``#`` for remarks."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not lines or any(len(line) != 2 for line in lines):
        raise InvalidDocument(f"{path} must hold a distribution and a module a line.", "Correct it.")
    return WheelList(tuple(_normal(line[0]) for line in lines), tuple(line[1] for line in lines))


def cache_folder() -> Path:
    """Where wheels are kept for this interpreter and platform; made if need be."""
    base = Path(os.environ.get("HYBRIDGE_CACHE") or Path.home() / ".cache" / "hybridge")
    folder = base / "wheels" / f"cp{sys.version_info.major}{sys.version_info.minor}-{sysconfig.get_platform()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(pins: Sequence[Pin]) -> tuple[Path, ...]:
    """The wheels of these pins, from the cache or else from the package index, each checked against the lock.

    Raises:
        Unavailable: the index does not answer or does not have them.
    """
    folder = cache_folder()
    found = {pin: _cached(folder, pin) for pin in pins}
    missing = [pin for pin, path in found.items() if path is None]
    if missing:
        _download(folder, missing)
        found.update({pin: _cached(folder, pin) for pin in missing})
    absent = [pin.name for pin, path in found.items() if path is None]
    if absent:
        raise Unavailable(
            f"The package index gave no wheel of {', '.join(absent)} for this machine.", "See locks/edge.txt."
        )
    return tuple(path for path in found.values() if path is not None)


def _cached(folder: Path, pin: Pin) -> Path | None:
    for path in sorted(folder.glob("*.whl")):
        name, version = path.name.split("-")[:2]
        if _normal(name) == pin.name and version == pin.version and digest(path) in pin.hashes:
            return path
    return None


def _download(folder: Path, pins: Sequence[Pin]) -> None:
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
        wanted = Path(temporary) / REQUIREMENTS
        wanted.write_text("".join(f"{pin.lines}\n" for pin in pins))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--require-hashes", "-r", str(wanted), "-d", temporary]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"The package index took longer than {DOWNLOAD_TIMEOUT_SECONDS} s.", "Try again."
            ) from None
        if done.returncode:
            said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or [
                "ERROR: no reason"
            ]
            raise Unavailable(
                f"Wheels of {', '.join(pin.name for pin in pins)} could not be downloaded: "
                f"{said[-1].removeprefix('ERROR: ')}",
                "Check the network and pip's index settings, and try again.",
            )
        for wheel in Path(temporary).glob("*.whl"):
            wheel.replace(folder / wheel.name)


def build_device_wheel(out: Path) -> Path:
    """Build the wheel of ``edge/`` into ``out``; the same source gives the same bytes.

    Raises:
        Refused: hatchling is not installed, or says no.
    """
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(
        command,
        cwd=checkout.root() / "edge",
        env={**os.environ, "SOURCE_DATE_EPOCH": _SOURCE_DATE},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    wheels = sorted(out.glob("hybridge_edge-*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Refused(f"The device wheel was not built: {' '.join(said)}", "Run scripts/setup and try again.")
    return wheels[0]


def write_zip(out: Path, wheels: WheelList, device_wheel: Path) -> Path:
    """Write a component's artifact to the file ``out``: wheels, requirements with hashes, imports, the installer."""
    pins = read_lock(checkout.root() / "locks" / "edge.txt")
    absent = [name for name in (*wheels.distributions, _PIP) if name not in pins]
    if absent:
        raise Refused(
            f"locks/edge.txt does not pin {', '.join(absent)}.", "Run scripts/lock and commit what it writes."
        )
    fetched = fetch([pins[name] for name in wheels.distributions])
    requirements = [Pin(pins[name].name, pins[name].version, frozenset({digest(path)}))
                    for name, path in zip(wheels.distributions, fetched, strict=True)]  # fmt: skip
    requirements.append(Pin("hybridge-edge", device_wheel.name.split("-")[1], frozenset({digest(device_wheel)})))
    texts = {
        REQUIREMENTS: "".join(f"{pin.lines}\n" for pin in sorted(requirements, key=lambda pin: pin.name)).encode(),
        IMPORTS: "".join(f"{name}\n" for name in (*wheels.imports, "hybridge_edge")).encode(),
        INSTALLER: (checkout.root() / "components" / INSTALLER).read_bytes(),
    }
    return pack(out, {path.name: path for path in (*fetched, *fetch([pins[_PIP]]), device_wheel)}, texts)


def pack(out: Path, files: dict[str, Path], texts: dict[str, bytes]) -> Path:
    """Write a zip whose bytes follow from its content alone: sorted names, no times, no compression.

    Args:
        files: files to copy in, by name in the zip. texts: bytes to write, by name.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted({*files, *texts}):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3  # Unix, whatever wrote it
            with archive.open(entry, "w", force_zip64=False) as target:
                if name in texts:
                    target.write(texts[name])
                    continue
                with files[name].open("rb") as source:
                    while chunk := source.read(_READ_BYTES):
                        target.write(chunk)
    return out


def digest(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
