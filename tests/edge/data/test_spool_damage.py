"""A damaged spool always opens, and gives every record that the damage did not touch, once."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridge_edge import spool
from hybridge_edge.spool_reader import Entry, SpoolReader
from hybridge_edge.spool_writer import SpoolWriter

CORRUPTIONS = 200
SEED = 7


@dataclass(frozen=True)
class Place:
    """Where one record lies."""

    segment: int
    start: int
    end: int


def filled(folder: Path) -> dict[int, Place]:
    """A spool of five segments; where each record lies, by its number."""
    writer = SpoolWriter(folder, segment_bytes=3000, minimum_free_bytes=0)
    for first in range(0, 60, 6):
        writer.append([b"%06d" % number + bytes([number]) * 300 for number in range(first, first + 6)])
    writer.close()
    places = {}
    for index in spool.segment_indexes(folder):
        data = spool.read_segment(spool.segment_path(folder, index))
        for record in spool.records(data):
            size = spool.RECORD_HEADER.size + len(record.body)
            places[int(record.body[:6])] = Place(index, record.end - size, record.end)
    return places


def drain(folder: Path) -> tuple[list[Entry], SpoolReader]:
    """Everything that can be read once a writer has started again."""
    writer = SpoolWriter(folder, segment_bytes=3000, minimum_free_bytes=0)
    writer.append([b"999999 written after the damage"])
    reader = SpoolReader(folder)
    entries = []
    while group := reader.read(7, 1 << 20):
        entries += group
    if entries:
        reader.ack()
    writer.close()
    reader.close()
    return entries, reader


def flip(data: bytearray, rng: random.Random) -> tuple[int, int]:
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    return at, at + 1


def zero(data: bytearray, rng: random.Random) -> tuple[int, int]:
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice([1, 64, 512, 4096]))
    data[at:end] = bytes(end - at)
    return at, end


def truncate(data: bytearray, rng: random.Random) -> tuple[int, int]:
    at, end = rng.randrange(len(data)), len(data)
    del data[at:]
    return at, end


def insert(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Strange bytes between, which move everything behind them."""
    at = rng.randrange(len(data))
    data[at:at] = rng.randbytes(rng.randrange(1, 100))
    return at, at + 1


def test_two_hundred_damages_cost_only_the_records_they_touch(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    places = filled(tmp_path / "whole")
    for turn in range(CORRUPTIONS):
        folder = tmp_path / str(turn)
        shutil.copytree(tmp_path / "whole", folder)
        index = rng.choice(spool.segment_indexes(folder))
        damage: Callable[[bytearray, random.Random], tuple[int, int]] = rng.choice([flip, zero, truncate, insert])
        path = spool.segment_path(folder, index)
        data = bytearray(path.read_bytes())
        start, end = damage(data, rng)
        path.write_bytes(data)
        touched = {n for n, p in places.items() if p.segment == index and p.start < end and start < p.end}
        entries, reader = drain(folder)
        got = [int(entry.body[:6]) for entry in entries]
        where = f"seed {SEED}, turn {turn}: {damage.__name__} {start}..{end} of segment {index}"
        assert len(got) == len(set(got)), where
        assert set(got) >= set(places) - touched | {999999}, where
        assert set(got) <= set(places) | {999999}, where
        cursor = reader.cursor
        lost = len(places) + 1 - len(got)
        if lost and index != max(place.segment for place in places.values()):
            assert cursor.missing == lost, where
        if lost:
            assert cursor.missing + cursor.damaged + cursor.torn > 0, where


def test_what_was_damaged_is_kept_in_quarantine(spool_folder: Path) -> None:
    places = filled(spool_folder)
    place = places[20]
    path = spool.segment_path(spool_folder, place.segment)
    data = bytearray(path.read_bytes())
    data[place.end - 1] ^= 1
    path.write_bytes(data)
    entries, reader = drain(spool_folder)
    assert {int(entry.body[:6]) for entry in entries} == (set(places) - {20}) | {999999}
    assert (reader.cursor.damaged, reader.cursor.missing) == (1, 1)
    kept = [file.read_bytes() for file in spool.quarantine_folder(spool_folder).iterdir()]
    assert kept == [bytes(data[place.start : place.end])]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"junk" * 50, b"HYBSPOOL"], ids=["empty", "zero", "junk", "cut"])
def test_a_segment_of_nonsense_is_passed_over(spool_folder: Path, content: bytes) -> None:
    places = filled(spool_folder)
    last = spool.segment_indexes(spool_folder)[-1]
    spool.segment_path(spool_folder, last + 1).write_bytes(content)
    entries, _ = drain(spool_folder)
    assert {int(entry.body[:6]) for entry in entries} == set(places) | {999999}


def test_foreign_files_folders_and_links_are_set_aside(spool_folder: Path, tmp_path: Path) -> None:
    places = filled(spool_folder)
    segments = spool.segments_folder(spool_folder)
    last = spool.segment_indexes(spool_folder)[-1]
    secret = tmp_path / "secret"
    secret.write_bytes(b"not ours")
    (segments / "notes.txt").write_text("hello")
    (segments / f"{last + 1:016d}.seg").mkdir()
    (segments / f"{last + 2:016d}.seg").symlink_to(secret)
    entries, reader = drain(spool_folder)
    assert {int(entry.body[:6]) for entry in entries} == set(places) | {999999}
    assert reader.cursor.damaged == 3
    assert secret.read_bytes() == b"not ours"
    assert sorted(segments.iterdir()) == [
        spool.segment_path(spool_folder, i) for i in spool.segment_indexes(spool_folder)
    ]


@pytest.mark.parametrize("name", ["spool.json", "cursor.json"])
def test_no_byte_of_the_small_files_can_make_a_record_vanish(tmp_path: Path, name: str) -> None:
    rng = random.Random(SEED)
    places = filled(tmp_path / "whole")
    for turn in range(30):
        folder = tmp_path / str(turn)
        shutil.copytree(tmp_path / "whole", folder)
        reader = SpoolReader(folder)
        delivered = reader.read(25, 1 << 20)
        reader.ack()
        reader.close()
        data = bytearray((folder / name).read_bytes())
        flip(data, rng)
        (folder / name).write_bytes(data)
        entries, _ = drain(folder)
        got = {int(entry.body[:6]) for entry in (*delivered, *entries)}
        assert got == set(places) | {999999}, f"seed {SEED}, turn {turn}"
        bodies: dict[tuple[str, int], bytes] = {}
        for entry in (*delivered, *entries):
            assert bodies.setdefault((entry.epoch, entry.seq), entry.body) == entry.body
