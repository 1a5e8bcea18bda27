"""Everything captured reaches S3 exactly once, whatever S3, the network or a kill does to it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridge_edge import uplink as uplink_module
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.errors import Conflict
from hybridge_edge.contract.names import parse_batch_manifest_key
from hybridge_edge.runtime import Endpoint
from hybridge_edge.s3 import Bucket
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter
from hybridge_edge.uplink import Uplink
from hybridge_edge.uplink_status import UplinkStatus

SEED = 11
Bodies = Callable[[int, int], list[bytes]]


def returned(objects: dict[str, bytes]) -> Counter[int]:
    """The numbers of the samples in S3, as the cloud sees them: committed batches, an identity once.

    A batch whose data does not fit its manifest counts for nothing.
    """
    found: dict[tuple[str, int], int] = {}
    for key, content in list(objects.items()):
        if parse_batch_manifest_key(key) is None:
            continue
        manifest = BatchManifest.from_bytes(content)
        data = objects.get(manifest.data_key, b"")
        if len(data) != manifest.data_size:
            continue
        arrays = np.load(io.BytesIO(data), allow_pickle=False)
        for seq, sample_id in zip(arrays["seq"], arrays["sample_id"], strict=True):
            found[manifest.epoch, int(seq)] = int(str(sample_id).removeprefix("person1/"))
    return Counter(found.values())


@pytest.fixture
def filled(spool_folder: Path, sample_bodies: Bodies) -> int:
    """A spool with samples 0 to 399 in many segments; their number."""
    writer = SpoolWriter(spool_folder, segment_bytes=30_000, minimum_free_bytes=0)
    for first in range(0, 400, 16):
        writer.append(sample_bodies(first, 16))
    writer.close()
    return 400


@pytest.fixture
def deliver(spool_folder: Path, s3: Any, wait_for: Any) -> Callable[..., UplinkStatus]:
    """Run an uplink in this process until it has returned ``count`` samples, then stop it."""

    def run(count: int, **settings: object) -> UplinkStatus:
        uplink = Uplink(
            spool_folder,
            Bucket("data", s3.environment()),
            "device-1",
            batch_samples=64,
            batch_seconds=0.05,
            backoff=Backoff(0.02),
            **settings,  # type: ignore[arg-type]
        )
        stop = threading.Event()
        thread = threading.Thread(target=uplink.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: uplink.status.returned >= count)
        finally:
            stop.set()
            thread.join(30)
            status = uplink.status
            uplink.close()
        return status

    return run


def test_what_is_in_the_spool_reaches_the_bucket_and_leaves_the_spool(
    spool_folder: Path,
    filled: int,
    s3: Any,
    deliver: Callable[..., UplinkStatus],
) -> None:
    status = deliver(filled)
    assert returned(s3.objects) == Counter(range(filled))
    assert (status.returned, status.batches, status.error) == (filled, 7, "")
    assert (status.missing, status.damaged, status.torn, status.unreadable) == (0, 0, 0, 0)
    reader = SpoolReader(spool_folder)
    assert reader.read(1, 1) == []
    reader.close()


def test_a_manifest_is_written_after_its_data(filled: int, s3: Any, deliver: Callable[..., UplinkStatus]) -> None:
    deliver(filled)
    for position, key in enumerate(s3.order):
        if key.endswith(".json"):
            assert BatchManifest.from_bytes(s3.objects[key]).data_key in s3.order[:position]


def test_failing_requests_cost_time_and_no_sample(
    filled: int, s3: Any, faults: Any, deliver: Callable[..., UplinkStatus]
) -> None:
    shares = {"500": 0.1, "503": 0.1, "cut": 0.1, "lost-answer": 0.1, "expired": 0.05, "403": 0.02}
    s3.fault = faults(SEED, shares)
    uplink_module_wait, uplink_module.REFUSED_SECONDS = uplink_module.REFUSED_SECONDS, 0.02
    try:
        deliver(filled)
    finally:
        uplink_module.REFUSED_SECONDS = uplink_module_wait
    assert returned(s3.objects) == Counter(range(filled)), f"seed {SEED}"
    assert s3.requests > 14
    assert len(s3.objects) == 14, "a repeated attempt makes no second object"


def test_an_account_that_loses_data_is_found_out(filled: int, s3: Any, deliver: Callable[..., UplinkStatus]) -> None:
    """The positive control of this file: the count above is no formality."""
    rng = random.Random(SEED)
    s3.fault = lambda: "lies" if rng.random() < 0.2 else ""
    deliver(filled)
    assert returned(s3.objects) != Counter(range(filled))


def test_requests_become_rare_while_s3_is_down() -> None:
    backoff = Backoff(rng=random.Random(SEED))
    waits = [backoff.wait() for _ in range(40)]
    in_first_minute = next(n for n in range(40) if sum(waits[:n]) > 60)
    assert in_first_minute < 12
    assert all(1.0 <= wait <= 300.0 for wait in waits[in_first_minute:])
    assert backoff.wait(20.0) >= 20.0
    assert Backoff().wait(20.0) >= 20.0
    assert Backoff(5.0).wait(20.0) == 5.0
    backoff.succeeded()
    assert backoff.wait() <= 0.25


def test_records_that_are_no_samples_are_set_aside_and_counted(
    spool_folder: Path,
    sample_bodies: Bodies,
    s3: Any,
    deliver: Callable[..., UplinkStatus],
) -> None:
    writer = SpoolWriter(spool_folder, minimum_free_bytes=0)
    writer.append([*sample_bodies(0, 3), b"no sample", *sample_bodies(3, 2)])
    writer.close()
    status = deliver(5)
    assert returned(s3.objects) == Counter(range(5))
    assert (status.returned, status.unreadable) == (5, 1)
    assert [path.read_bytes() for path in (spool_folder / "quarantine").iterdir()] == [b"no sample"]
    assert deliver(5).returned == 5, "also after a restart"


def test_samples_that_come_while_it_runs_are_returned_too(
    spool_folder: Path,
    sample_bodies: Bodies,
    s3: Any,
    wait_for: Any,
    tmp_path: Path,
) -> None:
    writer = SpoolWriter(spool_folder, segment_bytes=20_000, minimum_free_bytes=0)
    uplink = Uplink(
        spool_folder,
        Bucket("data", s3.environment()),
        "device-1",
        batch_samples=32,
        batch_seconds=0.05,
        status_folder=tmp_path,
    )
    stop = threading.Event()
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    for first in range(0, 160, 8):
        writer.append(sample_bodies(first, 8))
        time.sleep(0.01)
    wait_for(lambda: uplink.status.returned == 160)
    stop.set()
    thread.join(30)
    uplink.close()
    writer.close()
    assert returned(s3.objects) == Counter(range(160))
    status = UplinkStatus.read(tmp_path)
    assert (status.returned, status.error) == (160, "")
    assert status.last_success_ms > 0
    assert UplinkStatus.read(tmp_path / "nowhere") == UplinkStatus()


def test_stopping_while_s3_is_away_leaves_everything_in_the_spool(
    spool_folder: Path,
    filled: int,
    s3: Any,
    wait_for: Any,
    deliver: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink_module, "FLUSH_SECONDS", 0.2)
    s3.fault = lambda: "500"
    uplink = Uplink(spool_folder, Bucket("data", s3.environment()), "device-1", batch_seconds=0.05)
    stop = threading.Event()
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    wait_for(lambda: "500" in uplink.status.error)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    uplink.close()
    assert s3.objects == {}
    s3.fault = lambda: ""
    deliver(filled)
    assert returned(s3.objects) == Counter(range(filled))


def test_nothing_is_sent_that_could_not_be_noted_first(
    spool_folder: Path, filled: int, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that is sent without a note would come again in other batches after a kill."""
    monkeypatch.setattr(uplink_module, "FLUSH_SECONDS", 0.2)
    uplink = Uplink(spool_folder, Bucket("data", s3.environment()), "device-1", backoff=Backoff(0.02))

    def failing() -> None:
        raise OSError("told to fail")

    monkeypatch.setattr(uplink._reader, "plan", failing)
    stop = threading.Event()
    stop.set()
    uplink.run(stop)
    assert (s3.requests, uplink.status.returned) == (0, 0)
    uplink.close()


def test_two_uplinks_on_one_spool_are_refused(spool_folder: Path, s3: Any) -> None:
    bucket = Bucket("data", s3.environment())
    first = Uplink(spool_folder, bucket, "device-1")
    with pytest.raises(Conflict, match="has a reader already"):
        Uplink(spool_folder, bucket, "device-1")
    first.close()


_COMMAND = """
import argparse, sys
from hybridge_edge import uplink
from hybridge_edge.contract.errors import HybridgeError
parser = argparse.ArgumentParser()
uplink.add_arguments(parser)
try:
    sys.exit(uplink.run(parser.parse_args()))
except HybridgeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def start_uplink(tmp_path: Path, s3: Any) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a process of its own, with the environment of a component."""
    runtime_folder = tmp_path / "run"
    runtime_folder.mkdir(mode=0o700)
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, "--batch-samples", "64", "--batch-seconds", "0.1", *arguments],
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HYBRIDGE_"))},
                **s3.environment(),
                "HYBRIDGE_RUNTIME_DIR": str(runtime_folder),
                "AWS_IOT_THING_NAME": "device-1",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_the_command_finds_the_spool_delivers_on_sigterm_and_ends_with_zero(
    tmp_path: Path, spool_folder: Path, filled: int, sample_bodies: Bodies, s3: Any, start_uplink: Any, wait_for: Any
) -> None:
    process = start_uplink("--bucket", "data", "--batch-seconds", "3600")
    Endpoint("unix:/x", "", "/y", str(spool_folder), 1).write(tmp_path / "run")
    wait_for(lambda: len(s3.objects) >= 12)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert returned(s3.objects) == Counter(range(filled))
    assert json.loads((tmp_path / "run" / "uplink.json").read_text())["returned"] == filled


def test_kills_of_the_uplink_return_every_sample_once(
    spool_folder: Path, filled: int, s3: Any, start_uplink: Any, wait_for: Any
) -> None:
    """Each life dies at its n-th request, which was stored and not answered."""
    for life in range(5):
        process = start_uplink("--bucket", "data", "--spool", str(spool_folder))
        last = s3.requests + 1 + life % 3
        s3.fault = lambda last=last: "lost-answer" if s3.requests >= last else ""
        wait_for(lambda last=last: s3.requests >= last)
        process.kill()
        process.communicate()
    s3.fault = lambda: ""
    process = start_uplink("--bucket", "data", "--spool", str(spool_folder))
    wait_for(lambda: returned(s3.objects) == Counter(range(filled)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(s3.objects) == 14, "a repeated delivery made the same objects"


def catches(pid: int, number: int) -> bool:
    """Whether a process has come as far as to handle a signal itself (proc(5), SigCgt)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


def test_a_new_uplink_takes_over_from_one_that_ends(
    spool_folder: Path, filled: int, s3: Any, start_uplink: Any, wait_for: Any
) -> None:
    first = Uplink(spool_folder, Bucket("data", s3.environment()), "device-1")
    process = start_uplink("--bucket", "data", "--spool", str(spool_folder))
    waiting = start_uplink("--bucket", "data", "--spool", str(spool_folder))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    assert s3.objects == {}
    wait_for(lambda: catches(waiting.pid, signal.SIGTERM))
    waiting.send_signal(signal.SIGTERM)
    assert (waiting.wait(30), waiting.stderr.read()) == (0, ""), "told to stop while it waits, it has failed at nothing"
    first.close()
    wait_for(lambda: returned(s3.objects) == Counter(range(filled)))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ((), 2, "bucket is not set"),
        (("--bucket", "data", "--batch-samples", "many"), 2, "batchSamples is 'many'"),
        (("--bucket", "data", "--batch-seconds", "-1"), 2, "batchSeconds is '-1'"),
        (("--bucket", "Not/A/Bucket"), 2, "not the name of a bucket"),
        (("--bucket", "data", "--thing", "a/b"), 1, "not a valid device name"),
        (("--bucket", "data", "--configuration"), 1, "no Greengrass nucleus"),
        (("--bucket", "data", "--spool", "/dev/null/spool"), 1, "spool folder /dev/null/spool cannot be made"),
    ],
)
def test_wrong_settings_get_one_sentence(
    start_uplink: Any, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    process = start_uplink(*arguments)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert sentence in errors
    assert "Traceback" not in errors
    assert errors.count("\n") == 1
