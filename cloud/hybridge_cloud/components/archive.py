"""Zips whose bytes follow from their content alone: the same files give the same digest, whenever and wherever."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The earliest moment a zip can name: ours do not say when they were made."""
_UNIX = 3
_READ_BYTES = 1024 * 1024


def pack(out: Path, files: Mapping[str, Path], texts: Mapping[str, bytes]) -> Path:
    """Write the zip ``out``: sorted names, no times, mode 0644, no compression (wheels and graphs are dense).

    Args:
        files: files to copy in, by name in the zip. texts: bytes to write, by name.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted({*files, *texts}):
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o100644 << 16
            entry.create_system = _UNIX
            entry.file_size = len(texts[name]) if name in texts else files[name].stat().st_size
            with archive.open(entry, "w") as target:
                if name in texts:
                    target.write(texts[name])
                    continue
                with files[name].open("rb") as source:
                    while chunk := source.read(_READ_BYTES):
                        target.write(chunk)
    return out


def members(path: Path) -> dict[str, str]:
    """``sha256:`` and the digest of each file in a zip of ours, by name."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                found[name] = f"sha256:{_digest(file)}"
    return found


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_READ_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
