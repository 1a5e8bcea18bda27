"""Read a spool that another process is writing, deliver each record, and remove what was acknowledged."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_edge import durable, spool
from hybridge_edge.contract.errors import SpoolFull
from hybridge_edge.spool import Cursor, Record

QUARANTINE_BYTES = 16 * 1024 * 1024
QUARANTINE_FILES = 256
RESERVE_BYTES = 1024 * 1024
"""Disk space kept back in the file ``reserve``, given up when the cursor cannot be written for want of it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as delivered: its identity (epoch, seq), and its body."""

    epoch: str
    seq: int
    body: bytes


class SpoolReader:
    """The reading end of a spool.

    ``read`` gives records in the order in which they were appended, each once while the cursor is intact; ``ack`` says
    that all of them are delivered and removes their segments. What cannot be read is counted in ``cursor`` and kept in
    quarantine/; everything else is delivered.

    Raises:
        Conflict: another process reads this spool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        spool.make_folders(folder)
        self._lock = spool.lock(folder, "reader")
        try:
            self._acked = self._at = Cursor.read(folder)
            self._pending = 0
            self._given = (0, 0)  # where the last record given ends; the position may be in the next segment already
            self._data, self._base = b"", 0  # bytes of the segment at hand, from ``_base`` on
            self._quarantine_foreign_files()
            self._remove_delivered()
            self._keep_reserve()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def cursor(self) -> Cursor:
        """The position and the counters as last acknowledged."""
        return self._acked

    @property
    def waiting_bytes(self) -> int:
        """Bytes in the spool that are not acknowledged yet."""
        return max(0, spool.used_bytes(self._folder) - self._acked.offset)

    def read(self, limit: int, limit_bytes: int) -> list[Entry]:
        """The next records: at most ``limit``, and no more once their bodies reach ``limit_bytes``. Never waits."""
        return self._read(limit, limit_bytes, None)

    def unfinished(self) -> list[Entry]:
        """The records of the delivery that was begun and not acknowledged when the last reader stopped; maybe none.

        Delivered again as one group, they make the same objects under the same keys.
        """
        end = (self._acked.planned_segment, self._acked.planned_offset)
        return self._read(1 << 30, 1 << 40, end)

    def plan(self) -> None:
        """Note durably that everything read so far is about to be delivered as one group."""
        segment, offset = self._given
        self._write(replace(self._acked, planned_segment=segment, planned_offset=offset))

    def ack(self) -> None:
        """Everything read so far is delivered: never give it again, and remove its segments."""
        self._write(replace(self._at, delivered=self._acked.delivered + self._pending))
        self._pending = 0
        self._remove_delivered()
        self._keep_reserve()

    def rewind(self) -> None:
        """Go back to the last acknowledgement; what was read since will be read again."""
        self._at = self._acked
        self._pending = 0
        self._data, self._base = b"", 0

    def set_aside(self, entry: Entry) -> None:
        """Keep in quarantine/ the body of an entry that is whole and yet no sample: damaged, not delivered."""
        self._quarantine(f"{entry.epoch}-{entry.seq}", entry.body)
        self._at = replace(self._at, damaged=self._at.damaged + 1)
        self._pending -= 1

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read(self, limit: int, limit_bytes: int, end: tuple[int, int] | None) -> list[Entry]:
        entries: list[Entry] = []
        size = 0
        while len(entries) < limit and size < limit_bytes:
            if end is not None and (self._at.segment, self._at.offset) >= end:
                break
            record = self._next()
            if record is None:
                break
            entries.append(Entry(record.epoch, record.seq, record.body))
            self._given = (self._at.segment, self._at.offset)
            size += len(record.body)
        self._pending += len(entries)
        if not self._pending and self._at.segment > self._acked.segment:
            self.ack()  # nothing but ends of segments were passed
        return entries

    def _next(self) -> Record | None:
        """The next record that was not given yet, or None where the writer has written no more."""
        while True:
            record = self._take()
            if record is None:
                if not self._load():
                    return None
                continue
            known = record.epoch == self._at.epoch and record.seq <= self._at.seq
            self._at = replace(
                self._at,
                offset=self._base + record.end,
                ordinal=self._at.ordinal + 1,
                epoch=record.epoch,
                seq=self._at.seq if known else record.seq,
            )
            if not known:
                return record

    def _take(self) -> Record | None:
        """The record at the position, in the bytes at hand; damage before a right record is passed over."""
        offset = self._at.offset - self._base
        if self._at.offset == 0:
            before = spool.parse_segment_header(self._data)
            if before is not None:
                self._enter(before)
                offset = self._at.offset - self._base
        record = spool.parse_record(self._data, offset)
        if record is not None:
            return record
        following = spool.find_record(self._data, offset)
        if following is None:
            return None
        self._damage(self._data[offset:following])
        return spool.parse_record(self._data, following)

    def _enter(self, before: int) -> None:
        """Pass a segment's header, and count what the writer put into earlier segments and nobody found there."""
        lost = before - self._at.ordinal if 0 <= self._at.ordinal < before else 0
        self._at = replace(self._at, offset=spool.SEGMENT_HEADER.size, ordinal=before, missing=self._at.missing + lost)

    def _load(self) -> bool:
        """Read on: what was added to this segment, or the next one. Returns False where there is nothing new."""
        indexes = spool.segment_indexes(self._folder)
        if not indexes:
            return False
        if indexes[-1] < self._at.segment:  # another life of the spool, which counts its segments anew
            self._go_to(indexes[0])
        sealed = indexes[-1] > self._at.segment  # looked up before the bytes are read: no more can follow them
        known = self._base + len(self._data)
        data = self._segment_bytes(self._at.segment, self._at.offset)
        if data is not None and self._at.offset + len(data) > max(known, self._at.offset):
            self._data, self._base = data, self._at.offset
            return True
        if not sealed:
            return False
        if data:
            self._end_of_segment(data)
        self._go_to(min(index for index in indexes if index > self._at.segment))
        return True

    def _segment_bytes(self, index: int, offset: int) -> bytes | None:
        path = spool.segment_path(self._folder, index)
        try:
            return spool.read_segment(path, offset)
        except FileNotFoundError:
            return None
        except OSError:
            self._quarantine_file(path)
            self._at = replace(self._at, damaged=self._at.damaged + 1)
            return None

    def _go_to(self, index: int) -> None:
        self._at = replace(self._at, segment=index, offset=0)
        self._data, self._base = b"", 0

    def _end_of_segment(self, rest: bytes) -> None:
        """Account for the bytes behind the last right record of a sealed segment."""
        header = len(rest) >= spool.RECORD_HEADER.size
        cut = rest[:4] == spool.RECORD_MAGIC[: len(rest)] and (
            not header or len(rest) - spool.RECORD_HEADER.size < spool.RECORD_HEADER.unpack_from(rest)[1]
        )
        started = self._at.offset == 0 and len(rest) < spool.SEGMENT_HEADER.size
        if cut or started or not rest.strip(b"\0"):
            self._at = replace(self._at, torn=self._at.torn + 1)
        else:
            self._damage(rest)

    def _damage(self, data: bytes) -> None:
        self._quarantine(f"{self._at.segment:016d}-{self._at.offset}", data)
        self._at = replace(self._at, offset=self._at.offset + len(data), damaged=self._at.damaged + 1)

    def _quarantine(self, name: str, data: bytes) -> None:
        """Keep bytes for people, while there is room; they are counted in any case."""
        folder = spool.quarantine_folder(self._folder)
        sizes = [path.lstat().st_size for path in folder.iterdir()]
        if len(sizes) >= QUARANTINE_FILES or sum(sizes) + len(data) > QUARANTINE_BYTES:
            return
        try:
            durable.write(folder / f"{name}.bad", data)
        except (SpoolFull, OSError):
            return  # no room to keep it; delivering the rest matters more

    def _quarantine_file(self, path: Path) -> None:
        target = spool.quarantine_folder(self._folder) / f"{path.name[:100]}.{os.urandom(4).hex()}"
        try:
            path.rename(target)
        except OSError:
            return  # it stays where it is and is passed over again next time

    def _quarantine_foreign_files(self) -> None:
        for path in sorted(spool.segments_folder(self._folder).iterdir()):
            if spool.segment_index(path.name) is None or path.is_symlink() or not path.is_file():
                self._quarantine_file(path)
                self._at = self._acked = replace(self._acked, damaged=self._acked.damaged + 1)

    def _remove_delivered(self) -> None:
        indexes = spool.segment_indexes(self._folder)
        for index in indexes[:-1]:  # the last one tells the next writer where to go on
            if index < self._acked.segment <= indexes[-1]:
                spool.segment_path(self._folder, index).unlink(missing_ok=True)

    def _write(self, cursor: Cursor) -> None:
        path = self._folder / spool.CURSOR_FILE
        try:
            durable.write(path, cursor.to_bytes())
        except SpoolFull:
            (self._folder / "reserve").unlink(missing_ok=True)
            durable.write(path, cursor.to_bytes())
        self._acked = cursor

    def _keep_reserve(self) -> None:
        path = self._folder / "reserve"
        if path.exists():
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            path.unlink(missing_ok=True)  # no room now: tried again at the next acknowledgement
        finally:
            os.close(descriptor)
