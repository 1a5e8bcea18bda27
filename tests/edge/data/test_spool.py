"""The spool: what was appended comes out, once, in order, also after restarts; and its limits hold."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridge_edge import spool
from hybridge_edge.contract.errors import Conflict, SpoolFull
from hybridge_edge.spool_reader import Entry, SpoolReader
from hybridge_edge.spool_writer import SEQ_BLOCK, SpoolWriter

MANY = 10_000


def bodies(first: int, count: int, size: int = 200) -> list[bytes]:
    return [b"%08d" % number + b"x" * (size - 8) for number in range(first, first + count)]


def numbers(entries: list[Entry]) -> list[int]:
    return [int(entry.body[:8]) for entry in entries]


def drain(reader: SpoolReader) -> list[Entry]:
    found: list[Entry] = []
    while group := reader.read(100, 1 << 20):
        found += group
    return found


def fill(writer: SpoolWriter, size: int) -> tuple[int, SpoolFull]:
    """Append until the spool refuses; how many records it took, and what it said."""
    accepted = 0
    while True:
        try:
            writer.append(bodies(accepted, 10, size))
        except SpoolFull as error:
            return accepted, error
        accepted += 10


@pytest.fixture
def open_writer(spool_folder: Path) -> Iterator[Callable[..., SpoolWriter]]:
    opened: list[SpoolWriter] = []

    def make(**settings: int) -> SpoolWriter:
        writer = SpoolWriter(spool_folder, minimum_free_bytes=0, **settings)
        opened.append(writer)
        return writer

    yield make
    for writer in opened:
        writer.close()


def test_what_is_appended_is_read_once_in_order(spool_folder: Path, open_writer: Callable[..., SpoolWriter]) -> None:
    writer, reader = open_writer(segment_bytes=2000), SpoolReader(spool_folder)
    for first in range(0, 100, 10):
        writer.append(bodies(first, 10))
    entries = drain(reader)
    assert numbers(entries) == list(range(100))
    assert [entry.seq for entry in entries] == list(range(1, 101))
    assert {entry.epoch for entry in entries} == {writer.epoch}
    reader.ack()
    assert drain(reader) == []
    writer.append(bodies(100, 1))
    assert numbers(drain(reader)) == [100]
    reader.close()


def test_acknowledged_segments_are_removed_and_the_last_one_stays(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    writer, reader = open_writer(segment_bytes=2000), SpoolReader(spool_folder)
    writer.append(bodies(0, 5))
    writer.append(bodies(5, 5))
    writer.append(bodies(10, 5))
    assert len(spool.segment_indexes(spool_folder)) == 3
    drain(reader)
    assert len(spool.segment_indexes(spool_folder)) == 3, "nothing goes before the acknowledgement"
    reader.ack()
    assert len(spool.segment_indexes(spool_folder)) == 1
    assert reader.waiting_bytes == 0
    reader.close()


def test_what_was_not_acknowledged_comes_again(spool_folder: Path, open_writer: Callable[..., SpoolWriter]) -> None:
    writer = open_writer()
    writer.append(bodies(0, 30))
    reader = SpoolReader(spool_folder)
    reader.read(10, MANY)
    reader.ack()
    reader.read(10, MANY)
    reader.close()
    again = SpoolReader(spool_folder)
    assert numbers(drain(again)) == list(range(10, 30))
    again.close()


def test_an_unfinished_delivery_comes_again_as_the_same_group(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    writer = open_writer(segment_bytes=1000)
    writer.append(bodies(0, 7))
    reader = SpoolReader(spool_folder)
    begun = reader.read(100, 1 << 20)
    reader.plan()
    reader.close()
    writer.append(bodies(7, 20))
    again = SpoolReader(spool_folder)
    assert again.unfinished() == begun
    again.ack()
    assert numbers(drain(again)) == list(range(7, 27))
    again.ack()
    assert again.unfinished() == []
    again.close()


def test_numbers_grow_over_restarts_also_after_everything_was_acknowledged(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    seen: list[int] = []
    for life in range(5):
        writer, reader = open_writer(), SpoolReader(spool_folder)
        writer.append(bodies(life * 10, 10))
        seen += [entry.seq for entry in drain(reader)]
        reader.ack()
        reader.close()
        if life % 2:
            writer.close()
        else:
            os.close(writer._lock)  # as a crash leaves it: nothing is written, the lock is gone
            writer._lock = -1
        assert writer.total == (life + 1) * 10
    assert seen == sorted(set(seen))
    assert seen[-1] - seen[0] < 5 * (SEQ_BLOCK + 10)


def test_a_lost_state_begins_a_new_epoch_and_loses_no_record(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    first = open_writer()
    first.append(bodies(0, 5))
    first.close()
    (spool_folder / "spool.json").write_bytes(b"\0" * 64)
    second = open_writer()
    second.append(bodies(5, 5))
    reader = SpoolReader(spool_folder)
    entries = drain(reader)
    assert numbers(entries) == list(range(10))
    assert first.epoch != second.epoch
    assert len({(entry.epoch, entry.seq) for entry in entries}) == 10
    reader.close()


def test_a_spool_has_one_writer_and_one_reader(spool_folder: Path, open_writer: Callable[..., SpoolWriter]) -> None:
    open_writer()
    with pytest.raises(Conflict, match="has a writer already"):
        SpoolWriter(spool_folder)
    reader = SpoolReader(spool_folder)
    with pytest.raises(Conflict, match="has a reader already"):
        SpoolReader(spool_folder)
    reader.close()
    SpoolReader(spool_folder).close()


def test_over_its_limit_it_refuses_and_goes_on_once_it_is_emptied(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    writer, reader = open_writer(limit_bytes=20_000), SpoolReader(spool_folder)
    accepted, error = fill(writer, 200)
    assert "of 20000 bytes" in error.message
    assert spool.used_bytes(spool_folder) <= 20_000
    assert numbers(drain(reader)) == list(range(accepted))
    reader.ack()
    writer.append(bodies(accepted, 10))
    assert numbers(drain(reader)) == list(range(accepted, accepted + 10))
    reader.close()


def test_it_leaves_the_disk_space_it_was_told_to_leave(spool_folder: Path) -> None:
    writer = SpoolWriter(spool_folder, minimum_free_bytes=1 << 60)
    with pytest.raises(SpoolFull, match="disk"):
        writer.append(bodies(0, 1))
    writer.close()


def test_files_are_for_this_user_alone(spool_folder: Path, open_writer: Callable[..., SpoolWriter]) -> None:
    previous = os.umask(0)
    try:
        open_writer().append(bodies(0, 3))
        reader = SpoolReader(spool_folder)
        drain(reader)
        reader.ack()
        reader.close()
    finally:
        os.umask(previous)
    for path in [spool_folder, *spool_folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_server_that_restarts_all_night_leaves_no_heap_of_segments(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    for _ in range(20):
        open_writer().close()
    assert len(spool.segment_indexes(spool_folder)) == 1


def test_segments_that_were_removed_by_hand_are_counted_as_missing(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    writer, reader = open_writer(segment_bytes=1000), SpoolReader(spool_folder)
    for first in range(0, 40, 4):
        writer.append(bodies(first, 4))
    assert numbers(reader.read(4, MANY)) == [0, 1, 2, 3]
    for index in spool.segment_indexes(spool_folder)[1:4]:
        spool.segment_path(spool_folder, index).unlink()
    assert numbers(drain(reader)) == list(range(16, 40))
    reader.ack()
    assert reader.cursor.missing == 12
    reader.close()


def test_a_spool_that_begins_anew_beside_an_old_cursor_is_read_from_its_beginning(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter]
) -> None:
    writer, reader = open_writer(segment_bytes=1000), SpoolReader(spool_folder)
    for first in range(0, 40, 4):
        writer.append(bodies(first, 4))
    drain(reader)
    reader.ack()
    reader.close()
    writer.close()
    for index in spool.segment_indexes(spool_folder):
        spool.segment_path(spool_folder, index).unlink()
    open_writer().append(bodies(40, 5))
    again = SpoolReader(spool_folder)
    assert numbers(drain(again)) == list(range(40, 45))
    again.close()


def test_an_fsync_that_fails_is_never_taken_for_good(
    spool_folder: Path, open_writer: Callable[..., SpoolWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = open_writer(), SpoolReader(spool_folder)
    writer.append(bodies(0, 3))
    real, failures = os.fsync, [OSError(errno.EIO, "told to fail")]

    def fsync(descriptor: int) -> None:
        if failures:
            drain(reader)  # a reader that is quick sees the records of the group that fails
            raise failures.pop()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writer.append(bodies(3, 3))
    assert len(spool.segment_indexes(spool_folder)) == 2, "the group lies in a new segment"
    reader.rewind()
    assert numbers(drain(reader)) == list(range(6))
    failures += [OSError(errno.EIO, "again"), OSError(errno.EIO, "and again")]
    with pytest.raises(OSError, match="again"):
        writer.append(bodies(6, 3))
    reader.close()


_FILE_SIZE_SCRIPT = """
import resource, sys
from pathlib import Path
from hybridge_edge.contract.errors import SpoolFull
from hybridge_edge.spool_writer import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), minimum_free_bytes=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
kept = refused = 0
for number in range(20):
    try:
        writer.append([b"%08d" % number + b"x" * 992])
        kept += 1
    except SpoolFull:
        refused += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
print(kept, refused)
"""


def test_a_write_that_does_not_fit_leaves_nothing_of_its_group_and_the_next_one_works(spool_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FILE_SIZE_SCRIPT, str(spool_folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["19", "1"]
    reader = SpoolReader(spool_folder)
    entries = drain(reader)
    assert numbers(entries) == [*range(9), *range(10, 20)]
    reader.ack()
    assert (reader.cursor.damaged, reader.cursor.missing, reader.cursor.torn) == (0, 0, 0)
    reader.close()


_HEAP_SCRIPT = """
import resource, sys
from pathlib import Path
from hybridge_edge.contract.errors import SpoolFull
from hybridge_edge.spool_writer import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), minimum_free_bytes=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
refused = 0
for _ in range(50):
    try:
        writer.append([b"x"])
    except SpoolFull:
        refused += 1
print(refused)
"""


def test_a_disk_that_stays_full_is_not_filled_with_empty_segments(spool_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HEAP_SCRIPT, str(spool_folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["50"]
    assert len(spool.segment_indexes(spool_folder)) == 1


_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB. Who may not mount one sees a skip; the test under a file-size limit needs no mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = _LIBC.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=2m") == 0
    if not mounted:
        pytest.skip("only root may mount a small file system")
    yield disk
    _LIBC.umount2(os.fsencode(disk), 2)


def test_a_full_disk_refuses_and_the_cursor_can_still_be_written(small_disk: Path) -> None:
    folder = small_disk / "spool"
    reader = SpoolReader(folder)
    writer = SpoolWriter(folder, minimum_free_bytes=0, segment_bytes=64_000)
    accepted, error = fill(writer, 1000)
    assert "full" in error.message
    (small_disk / "filler").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize)
    assert numbers(drain(reader)) == list(range(accepted))
    reader.ack()
    assert reader.cursor.delivered == accepted
    writer.append(bodies(accepted, 10, 1000))
    assert numbers(drain(reader)) == list(range(accepted, accepted + 10))
    writer.close()
    reader.close()
