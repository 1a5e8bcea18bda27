"""Append to a spool: what ``append`` returned is on the disk. One writer at a time, held by a lock."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from hybridge_edge import durable, spool
from hybridge_edge.contract.errors import SpoolFull

SEGMENT_BYTES = 4 * 1024 * 1024
"""A segment is sealed once it is this large, or a quarter of the spool's limit if that is less."""
DEFAULT_LIMIT_BYTES = 256 * 1024 * 1024
MINIMUM_FREE_BYTES = 32 * 1024 * 1024
"""The disk space that a spool leaves to everything else on the device."""
SEQ_BLOCK = 4096
"""Numbers reserved by one write of the state; an unclean end skips the rest of its block."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SpoolWriter:
    """The writing end of a spool.

    Every opening starts a new segment, so old ones are never written again. A new seq is larger than any used before
    in the same epoch, whatever was lost: numbers are reserved durably before they are used.

    Args:
        folder: made if need be, 0700. limit_bytes: of all segments together; over it ``append`` refuses.
        minimum_free_bytes: of the file system, left free.

    Raises:
        Conflict: another process writes to this spool. SpoolFull: there is no room for its first files.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        minimum_free_bytes: int = MINIMUM_FREE_BYTES,
    ) -> None:
        self._folder = folder
        self._largest_segment = segment_bytes
        self.limit(limit_bytes)
        self._minimum_free = minimum_free_bytes
        self._file = -1
        self._size = 0
        spool.make_folders(folder)
        self._lock = spool.lock(folder, "writer")
        try:
            state = spool.State.read(folder) or spool.State.new()
            self._epoch, self._next = state.epoch, state.reserved
            self._reserved = self._next
            cursor = spool.Cursor.read(folder)
            indexes = spool.segment_indexes(folder)
            self._index = max(cursor.segment, indexes[-1] if indexes else 0)
            self._before = max(cursor.ordinal, self._count(indexes[-1]) if indexes else 0, 0)
            self._others = spool.used_bytes(folder)
            self._reserve(self._next + SEQ_BLOCK)
            self._roll()
        except BaseException:
            os.close(self._lock)
            raise

    def limit(self, limit_bytes: int) -> None:
        """Hold to another limit; where more is there already, ``append`` refuses until a reader has taken it."""
        self._limit = limit_bytes
        self._segment_bytes = max(1, min(self._largest_segment, limit_bytes // 4))

    @property
    def epoch(self) -> str:
        return self._epoch

    @property
    def total(self) -> int:
        """Records appended in the spool's life, as far as its files tell."""
        return self._before

    @property
    def used_bytes(self) -> int:
        """Size of all segments when last looked at, and what was written since."""
        return self._others + self._size

    def append(self, bodies: Sequence[bytes]) -> range:
        """Write ``bodies`` as one group and fsync it. Returns their numbers; they survive a power cut.

        Raises:
            SpoolFull: the limit or the disk is reached; nothing of the group is in the spool.
        """
        if not bodies:
            return range(self._next, self._next)
        size = sum(map(len, bodies))
        if size > spool.MAX_GROUP_BYTES or any(len(body) > spool.MAX_BODY_BYTES for body in bodies):
            raise SpoolFull(f"A group of samples is {size} bytes large.", "Return smaller features.")
        if self._next + len(bodies) > self._reserved:
            self._reserve(self._next + len(bodies) + SEQ_BLOCK)
        numbers = range(self._next, self._next + len(bodies))
        data = b"".join(spool.pack_record(self._epoch, seq, body) for seq, body in zip(numbers, bodies, strict=True))
        self._make_room(len(data))
        if self._file < 0 or (self._size + len(data) > self._segment_bytes and self._size > spool.SEGMENT_HEADER.size):
            self._roll()
        try:
            self._write(data)
        except OSError as error:
            self._seal()
            if error.errno in _FULL:
                self._next = numbers.stop  # a reader may have seen some of them, so they are never used again
                raise self._disk_full() from None
            self._roll()  # the disk failed an fsync: what it holds of that file is unknown, so never fsync it again
            self._write(data)
        self._next = numbers.stop
        self._before += len(bodies)
        return numbers

    def close(self) -> None:
        """Seal the spool and give the lock back. The next writer goes on at the next number."""
        if self._lock < 0:
            return
        self._seal()
        try:
            spool.State(self._epoch, self._next).write(self._folder)
        except (SpoolFull, OSError):
            pass  # the larger reservation stays: numbers are skipped, none is used twice
        os.close(self._lock)
        self._lock = -1

    def _write(self, data: bytes) -> None:
        """One write and one fsync; a partial write is cut off again, so that no half group is ever delivered."""
        size = self._size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._size = size + len(data)

    def _make_room(self, needed: int) -> None:
        if self.used_bytes + needed > self._limit:
            self._others = spool.used_bytes(self._folder) - self._size  # the reader may have removed segments
            if self.used_bytes + needed > self._limit:
                raise SpoolFull(
                    f"The spool {self._folder} holds {self.used_bytes} of {self._limit} bytes.",
                    "Connect the device so that the uplink can empty it, or raise its limit.",
                )
        disk = os.statvfs(self._folder)
        if disk.f_bavail * disk.f_frsize < self._minimum_free + needed:
            raise self._disk_full()

    def _disk_full(self) -> SpoolFull:
        return SpoolFull(f"The disk of the spool {self._folder} is full.", "Make room on the device.")

    def _reserve(self, number: int) -> None:
        spool.State(self._epoch, number).write(self._folder)
        self._reserved = number

    def _roll(self) -> None:
        """Seal the open segment and start the next one."""
        self._seal()
        try:
            while self._file < 0:
                self._index += 1
                self._file = _create(spool.segment_path(self._folder, self._index))
            self._write(spool.segment_header(self._before))
            durable.sync_folder(spool.segments_folder(self._folder))
        except OSError as error:
            if self._file >= 0:  # a disk that stays full leaves no heap of empty segments
                spool.segment_path(self._folder, self._index).unlink(missing_ok=True)
                self._size = 0
            self._seal()
            if error.errno in _FULL:
                raise self._disk_full() from None
            raise

    def _seal(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._others += self._size
            self._file, self._size = -1, 0

    def _count(self, index: int) -> int:
        """Records up to the end of segment ``index``, read from it."""
        path = spool.segment_path(self._folder, index)
        try:
            data = spool.read_segment(path)
        except OSError:
            return 0
        before = spool.parse_segment_header(data)
        if len(data) <= spool.SEGMENT_HEADER.size and before is not None:
            path.unlink(missing_ok=True)  # a server that restarts all night leaves no heap of empty segments
        return (before or 0) + sum(1 for _ in spool.records(data))


def _create(path: Path) -> int:
    """A new file's descriptor, or -1 where something of that name lies there, which the reader will set aside."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        return -1
