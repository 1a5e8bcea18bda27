"""What a spool's folder holds, and the bytes of its files. Format 1.

    spool.json              the epoch of this spool's life, and a number below which every seq may be used already
    writer.lock reader.lock flock: one writer, one reader, in different processes
    cursor.json             the reader's position (spool_reader)
    reserve                 space kept back, so that the cursor can be written on a full disk
    segments/N.seg          numbered from 1; the last one is being written, all others are sealed
    quarantine/             what could not be read, kept for people, bounded

A segment is ``b"HYBSPOOL"``, u32 version, u64 number of records in all earlier segments, u32 CRC-32 of these; then
records::

    b"\\xa7HYR"   u32 length of the body   u64 epoch   u64 seq   u32 CRC-32 of the four fields before and the body

Little-endian. A record can be found and checked without the segment's header, so that one bad byte costs one record.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import Conflict, InvalidDocument, Refused
from hybridge_edge.contract.sample import MAX_SAMPLE_BYTES

FORMAT = 1
SEGMENT_MAGIC = b"HYBSPOOL"
SEGMENT_HEADER = struct.Struct("<8sIQI")
SEGMENT_VERSION = 1
RECORD_MAGIC = b"\xa7HYR"
RECORD_HEADER = struct.Struct("<4sIQQI")
MAX_BODY_BYTES = MAX_SAMPLE_BYTES
MAX_GROUP_BYTES = 2 * MAX_BODY_BYTES
"""The most that one append may write."""
MAX_SEGMENT_BYTES = 64 * 1024 * 1024
"""No segment is ever this large; a file that is, is not ours."""
SEGMENT_SUFFIX = ".seg"
CURSOR_FILE = "cursor.json"
_STATE_FILE = "spool.json"


@dataclass(frozen=True, slots=True)
class Record:
    """One record: who it is (``epoch``, ``seq``), its body, and where it ends in its segment."""

    epoch: str
    seq: int
    body: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the reader has come, and what it met on the way, over the spool's whole life.

    Attributes:
        segment, offset: the next byte to read. ordinal: records passed, or -1 while no segment was entered.
        epoch, seq: the last record acknowledged; a record at or below it in its epoch is a copy and is passed over.
        delivered: records acknowledged, but for those set aside.
        missing: records the writer counted that are in no segment any more.
        damaged: stretches of bytes that held no right record, kept in quarantine/ while there is room.
        torn: ends of segments that a crash cut off inside a record that was never acknowledged.
        planned_segment, planned_offset: where the delivery that was last begun ends.
    """

    segment: int = 0
    offset: int = 0
    ordinal: int = -1
    epoch: str = ""
    seq: int = 0
    delivered: int = 0
    missing: int = 0
    damaged: int = 0
    torn: int = 0
    planned_segment: int = 0
    planned_offset: int = 0

    def to_bytes(self) -> bytes:
        return _checked(asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Cursor:
        """The reader's position, or the beginning where it is missing or damaged: then some records come twice."""
        try:
            reader = _parse_checked((folder / CURSOR_FILE).read_bytes(), "spool's cursor")
            cursor = cls(
                reader.integer("segment"),
                reader.integer("offset"),
                reader.integer("ordinal", minimum=-1),
                reader.text("epoch"),
                reader.integer("seq"),
                reader.integer("delivered"),
                reader.integer("missing"),
                reader.integer("damaged"),
                reader.integer("torn"),
                reader.integer("planned_segment"),
                reader.integer("planned_offset"),
            )
            reader.close()
        except (OSError, InvalidDocument):
            return cls()
        return cursor


@dataclass(frozen=True, slots=True)
class State:
    """The spool's identity. ``reserved``: every new seq is at least this, so none is ever used twice."""

    epoch: str
    reserved: int

    def write(self, folder: Path) -> None:
        durable.write(folder / _STATE_FILE, _checked(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> State | None:
        """The state, or None where it is missing or damaged: then a new epoch begins, and no seq can clash."""
        try:
            reader = _parse_checked((folder / _STATE_FILE).read_bytes(), "spool's state")
            state = cls(_epoch(reader.text("epoch")), reader.integer("reserved", minimum=1))
            reader.close()
        except (OSError, InvalidDocument):
            return None
        return state

    @classmethod
    def new(cls) -> State:
        return cls(secrets.token_hex(8), 1)


def _checked(fields: dict[str, object]) -> bytes:
    """A small document with a checksum: a flipped digit must not pass for another number."""
    body = canonical({"format": FORMAT, **fields})
    return b"%08x\n" % zlib.crc32(body) + body


def _parse_checked(data: bytes, what: str) -> Reader:
    body = data[9:]
    if data[:9] != b"%08x\n" % zlib.crc32(body):
        raise InvalidDocument(f"The {what} is damaged.")
    reader = parse(body, what, 4096)
    reader.format(FORMAT)
    return reader


def _epoch(text: str) -> str:
    if len(text) != 16 or text.strip("0123456789abcdef"):
        raise InvalidDocument(f"{text[:20]!r} is not an epoch.")
    return text


def make_folders(folder: Path) -> None:
    """Make the spool's folders, 0700, and their names durable."""
    for path in (folder, segments_folder(folder), quarantine_folder(folder)):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"The spool folder {path} cannot be made: {error.strerror}.", "Name another one.") from None
        if path.is_symlink() or path.stat().st_uid != os.getuid():
            raise Refused(f"{path} is not a folder of this user.", "Name another spool folder.")
        path.chmod(0o700)
    durable.sync_folder(folder)
    durable.sync_folder(folder.parent)


def segments_folder(folder: Path) -> Path:
    return folder / "segments"


def quarantine_folder(folder: Path) -> Path:
    return folder / "quarantine"


def segment_path(folder: Path, index: int) -> Path:
    return segments_folder(folder) / f"{index:016d}{SEGMENT_SUFFIX}"


def segment_index(name: str) -> int | None:
    """The number in a segment's file name, or None for a foreign file."""
    stem = name.removesuffix(SEGMENT_SUFFIX)
    return int(stem) if name.endswith(SEGMENT_SUFFIX) and len(stem) == 16 and stem.isdecimal() else None


def segment_indexes(folder: Path) -> list[int]:
    """The numbers of all segments, ascending; only regular files count."""
    with os.scandir(segments_folder(folder)) as entries:
        found = [segment_index(entry.name) for entry in entries if entry.is_file(follow_symlinks=False)]
    return sorted(index for index in found if index is not None)


def used_bytes(folder: Path) -> int:
    """The size of all segments together, in bytes."""
    total = 0
    for index in segment_indexes(folder):
        try:
            total += segment_path(folder, index).stat().st_size
        except FileNotFoundError:  # the reader has just removed it
            continue
    return total


def lock(folder: Path, role: str) -> int:
    """Take the one writer's or reader's place. Returns the descriptor to close. Raises Conflict where it is taken."""
    descriptor = os.open(folder / f"{role}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(
            f"The spool {folder} has a {role} already.", f"Stop the other process; a spool has one {role}."
        ) from None
    return descriptor


def read_segment(path: Path, offset: int = 0) -> bytes:
    """The bytes of a segment from ``offset`` on.

    Raises:
        OSError: it is gone, not a regular file (a link is never followed), or larger than any segment may be.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_SEGMENT_BYTES:
            raise OSError(f"{path.name} is not a segment")
        file.seek(offset)
        return file.read(MAX_SEGMENT_BYTES)


def segment_header(records_before: int) -> bytes:
    fields = SEGMENT_HEADER.pack(SEGMENT_MAGIC, SEGMENT_VERSION, records_before, 0)[:-4]
    return fields + struct.pack("<I", zlib.crc32(fields))


def parse_segment_header(data: bytes) -> int | None:
    """Number of records in earlier segments, or None where the header is damaged or not there yet."""
    if len(data) < SEGMENT_HEADER.size:
        return None
    _, _, before, _ = SEGMENT_HEADER.unpack_from(data)
    return int(before) if data.startswith(segment_header(before)) else None


def pack_record(epoch: str, seq: int, body: bytes) -> bytes:
    """The bytes of one record."""
    number = int(epoch, 16)
    fields = RECORD_HEADER.pack(RECORD_MAGIC, len(body), number, seq, 0)[:-4]
    return fields + struct.pack("<I", zlib.crc32(body, zlib.crc32(fields))) + body


def parse_record(data: bytes, offset: int) -> Record | None:
    """The record that starts at ``offset``, or None where no whole and right record starts there."""
    if len(data) - offset < RECORD_HEADER.size:
        return None
    magic, length, epoch, seq, crc = RECORD_HEADER.unpack_from(data, offset)
    start = offset + RECORD_HEADER.size
    if magic != RECORD_MAGIC or length > MAX_BODY_BYTES or start + length > len(data):
        return None
    body = data[start : start + length]
    if zlib.crc32(body, zlib.crc32(data[offset : start - 4])) != crc:
        return None
    return Record(f"{epoch:016x}", seq, body, start + length)


def find_record(data: bytes, offset: int) -> int | None:
    """The offset of the first right record at or behind ``offset``, or None."""
    while (offset := data.find(RECORD_MAGIC, offset)) >= 0:
        if parse_record(data, offset) is not None:
            return offset
        offset += 1
    return None


def records(data: bytes) -> Iterator[Record]:
    """All right records of a segment's bytes, whatever lies between them."""
    offset = find_record(data, 0)
    while offset is not None:
        record = parse_record(data, offset)
        if record is None:
            offset = find_record(data, offset)
            continue
        yield record
        offset = record.end
