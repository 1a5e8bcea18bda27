"""kill -9 at random moments, of the writer and of the reader: nothing acknowledged is lost, nothing comes twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS = 50
SEED = 20_261

_ROLES = """
import hashlib, os, signal, sys
from pathlib import Path
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter

def write(folder, ledger, first):
    ledger, number = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT), int(first)
    writer = SpoolWriter(Path(folder), segment_bytes=20_000, minimum_free_bytes=0)
    while True:
        group = [b"%012d" % (number + row) + b"x" * (number % 700) for row in range(1 + number % 16)]
        writer.append(group)
        os.write(ledger, b"".join(body[:12] + b"\\n" for body in group))  # the producer's own list of what was accepted
        number += len(group)

def read(folder, bucket, order, stop):
    bucket, reader = Path(bucket), SpoolReader(Path(folder))
    group, last = reader.unfinished(), False
    while True:
        if group:
            reader.plan()
            if order == "acknowledge-first":
                reader.ack()
            lines = "".join(f"{entry.epoch} {entry.seq} {entry.body[:12].decode()}\\n" for entry in group).encode()
            name = hashlib.sha256(lines).hexdigest()
            (bucket / (name + ".part")).write_bytes(lines)
            os.rename(bucket / (name + ".part"), bucket / name)
            if order != "acknowledge-first":
                reader.ack()
        elif last:
            return
        last = os.path.exists(stop)  # looked at before reading: nothing is written once it is there
        group = reader.read(100, 1 << 20)

for line in sys.stdin:  # one child a line, so that a kill costs a fork and no start of Python
    role, *arguments = line.split()
    child = os.fork()
    if child == 0:
        {"write": write, "read": read}[role](*arguments)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


class Role:
    """The writer or the reader: a process that starts one again whenever it was killed."""

    def __init__(self, *command: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ROLES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._command = command
        self.pid = 0

    def start(self, *more: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, (*self._command, *more))) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ended\n"

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def turn(folder: Path, kills: int, order: str) -> tuple[set[str], list[str]]:
    """Kill both roles again and again, then let the reader finish. Returns accepted and delivered numbers."""
    spool_folder, ledger, bucket, stop = (folder / name for name in ("spool", "ledger", "bucket", "stop"))
    bucket.mkdir(parents=True)
    ledger.touch()
    rng = random.Random(SEED)
    writer, reader = Role("write", spool_folder, ledger), Role("read", spool_folder, bucket, order, stop)
    writer.start(0)
    reader.start()
    for number in range(1, kills + 1):
        time.sleep(rng.uniform(0.0, 0.08))
        if rng.random() < 0.5:
            writer.kill()
            writer.start(number * 1_000_000)
        else:
            reader.kill()
            reader.start()
    writer.kill()
    stop.touch()
    reader.wait()
    writer.close()
    reader.close()
    accepted = ledger.read_text().split()
    assert len(accepted) == len(set(accepted))
    delivered = [line for path in bucket.glob("*") if not path.suffix for line in path.read_text().splitlines()]
    identities = {line.rsplit(" ", 1)[0] for line in delivered}
    assert len(identities) == len(delivered), "an identity stands for two records, or a record was delivered twice"
    return set(accepted), [line.rsplit(" ", 1)[1] for line in delivered]


def test_fifty_kills_lose_nothing_that_was_accepted_and_deliver_nothing_twice(tmp_path: Path) -> None:
    accepted, delivered = turn(tmp_path, KILLS, "deliver-first")
    print(f"seed {SEED}: {KILLS} kills, {len(accepted)} accepted, {len(delivered)} delivered")
    assert len(accepted) > 100
    assert accepted - set(delivered) == set()
    assert len(delivered) == len(set(delivered))


def test_the_same_turn_finds_a_reader_that_acknowledges_too_early(tmp_path: Path) -> None:
    for attempt in range(10):
        accepted, delivered = turn(tmp_path / str(attempt), 10, "acknowledge-first")
        if accepted - set(delivered):
            return
    pytest.fail("ten turns lost nothing, so this test could not have found a loss")
