"""Files that survive power loss: write beside, fsync, rename, fsync the folder.

All durable work of the device goes through these few operations, so that a test can put a failing disk in their place.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from hybridge_edge.contract.errors import SpoolFull

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: readers see the old content or the new, whole, also after a power cut.

    Raises:
        SpoolFull: the disk is full; the old content stays. OSError: anything else the disk says.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise SpoolFull(f"The disk is full: {path.name} was not written.", "Make room on the device.") from None
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder and make the new name durable."""
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file and make its absence durable; a file that is not there is fine."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
