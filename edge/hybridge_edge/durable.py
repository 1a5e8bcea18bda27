"""Files that survive power loss: write beside, fsync, rename, fsync the folder.

All durable work of the device goes through these few operations, and they through the nine requests that ``Disk`` makes
of a file system: a test puts another one in its place, which records them, or fails.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from hybridge_edge.contract.errors import SpoolFull

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Disk:
    """What is asked of a file system."""

    def create(self, path: Path, mode: int) -> int:
        """A new, empty file, opened for writing; FileExistsError where there is something of that name."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)

    def append(self, descriptor: int, data: memoryview) -> None:
        while data:
            data = data[os.write(descriptor, data) :]

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in another's place, or a folder where nothing is."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def remove_folder(self, path: Path) -> None:
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, _FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


disk = Disk()
"""In use; for tests to replace."""


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``: readers see the old content or the new, whole, also after a power cut.

    Raises:
        SpoolFull: the disk is full; the old content stays. OSError: anything else the disk says.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        create(temporary, (data,), mode)
        disk.rename(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise SpoolFull(f"The disk is full: {path.name} was not written.", "Make room on the device.") from None
        raise
    sync_folder(path.parent)


def unfinished(folder: Path) -> tuple[Path, ...]:
    """Files of ``write`` that a crash left in ``folder``; nobody may be writing there."""
    return tuple(sorted(path for path in folder.iterdir() if _UNFINISHED.fullmatch(path.name) and path.is_file()))


def create(path: Path, pieces: Iterable[bytes], mode: int = 0o600) -> None:
    """Make a new file and its content durable; its name is once ``sync_folder`` was called. OSError."""
    descriptor = disk.create(path, mode)
    try:
        os.fchmod(descriptor, mode)  # whatever the process' mask is
        for piece in pieces:
            disk.append(descriptor, memoryview(piece))
        disk.sync(descriptor)
    finally:
        disk.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, 0700; its name is durable once ``sync_folder`` was called on its parent. A folder may be there."""
    try:
        disk.make_folder(path)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise


def sync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable."""
    disk.sync_folder(folder)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder and make the new name durable."""
    disk.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file and make its absence durable; a file that is not there is fine."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        pass
    sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, following no link, and make its absence durable."""
    _empty(folder)
    disk.remove_folder(folder)
    sync_folder(folder.parent)


def _empty(folder: Path) -> None:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            _empty(Path(entry.path))
            disk.remove_folder(Path(entry.path))
        else:
            disk.unlink(Path(entry.path))
