"""Through Stream Manager everything reaches S3 as by the direct uplink, and nothing leaves the spool before it has.

The SDK is the real one; the server is tests/kits/stream_manager_server.py.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stream_manager
from stream_manager_server import StreamManagerServer

from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_edge import stream_export
from hybridge_edge import uplink as uplink_module
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.errors import Refused, UsageError
from hybridge_edge.contract.names import parse_batch_manifest_key
from hybridge_edge.s3 import Bucket, TryAgain
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter
from hybridge_edge.stream_export import StreamExport
from hybridge_edge.uplink import Uplink
from hybridge_edge.uplink_status import UplinkStatus

Bodies = Callable[[int, int], list[bytes]]
COUNT = 150
STREAM = "hybridge-samples"


@pytest.fixture
def server() -> Iterator[StreamManagerServer]:
    with StreamManagerServer() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_export, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(stream_export, "READ_MILLISECONDS", 50)
    monkeypatch.setattr(stream_export, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(stream_export, "REQUEST_SECONDS", 0.3)  # the SDK waits it out where a connection ends
    monkeypatch.setattr(uplink_module, "REFUSED_SECONDS", 0.02)
    monkeypatch.setattr(uplink_module, "FLUSH_SECONDS", 0.1)


@pytest.fixture
def filled(spool_folder: Path, sample_bodies: Bodies) -> int:
    writer = SpoolWriter(spool_folder, segment_bytes=30_000, minimum_free_bytes=0)
    for first in range(0, COUNT, 15):
        writer.append(sample_bodies(first, 15))
    writer.close()
    return COUNT


@pytest.fixture
def export(server: StreamManagerServer, tmp_path: Path) -> Iterator[StreamExport]:
    export = StreamExport("data", tmp_path / "export", port=server.port)
    yield export
    export.close()


@pytest.fixture
def deliver(spool_folder: Path, export: StreamExport, wait_for: Any) -> Callable[..., Uplink]:
    """Run an uplink in this process until something is so, then stop it."""

    def run(until: Callable[[Uplink], bool]) -> Uplink:
        uplink = Uplink(spool_folder, export, "device-1", batch_samples=64, batch_seconds=0.05, backoff=Backoff(0.02))
        stop = threading.Event()
        thread = threading.Thread(target=uplink.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: until(uplink))
        finally:
            stop.set()
            thread.join(30)
            uplink.close()
        return uplink

    return run


def returned(objects: dict[str, bytes]) -> Counter[int]:
    found: dict[tuple[str, int], int] = {}
    for key, content in objects.items():
        if parse_batch_manifest_key(key) is None:
            continue
        manifest = BatchManifest.from_bytes(content)
        data = objects.get(manifest.data_key, b"")
        assert len(data) == manifest.data_size, "a manifest commits data that are there"
        arrays = np.load(io.BytesIO(data), allow_pickle=False)
        for seq, sample_id in zip(arrays["seq"], arrays["sample_id"], strict=True):
            found[manifest.epoch, int(seq)] = int(str(sample_id).removeprefix("person1/"))
    return Counter(found.values())


def waiting(spool_folder: Path) -> int:
    """How many samples a reader that comes now would still find."""
    reader = SpoolReader(spool_folder)
    try:
        return len(reader.read(1 << 20, 1 << 30))
    finally:
        reader.close()


def assert_everything_once(server: StreamManagerServer, count: int = COUNT) -> None:
    assert returned(server.objects) == Counter(range(count))
    contents: dict[str, set[bytes]] = {}
    for key, content in server.uploads:
        contents.setdefault(key, set()).add(content)
    assert len(contents) == 6, "a repeated delivery made the same keys"
    for key, different in contents.items():
        if parse_batch_manifest_key(key) is None:
            assert len(different) == 1, "and the same content"


def test_the_keys_and_bytes_are_the_direct_uplink_s(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any, s3: Any, tmp_path: Path, wait_for: Any
) -> None:
    direct = tmp_path / "direct"
    subprocess.run(["cp", "-r", str(spool_folder), str(direct)], check=True)
    assert deliver(lambda uplink: uplink.status.returned >= filled).status.error == ""
    assert_everything_once(server)
    assert waiting(spool_folder) == 0
    assert list((tmp_path / "export").iterdir()) == [], "no file is left behind"
    uplink = Uplink(direct, Bucket("data", s3.environment()), "device-1", batch_samples=64, batch_seconds=0.05)
    stop = threading.Event()
    thread = threading.Thread(target=uplink.run, args=(stop,))
    thread.start()
    wait_for(lambda: uplink.status.returned >= filled)
    stop.set()
    thread.join(30)
    uplink.close()
    assert s3.objects.keys() == server.objects.keys()
    data = [key for key in s3.objects if parse_batch_manifest_key(key) is None]
    assert [s3.objects[key] for key in data] == [server.objects[key] for key in data]


def test_the_stream_is_one_that_keeps_tasks(filled: int, server: StreamManagerServer, deliver: Any) -> None:
    deliver(lambda uplink: uplink.status.returned >= filled)
    definition = stream_manager.MessageStreamDefinition.from_dict(server.streams[STREAM].definition)
    assert definition.persistence == stream_manager.Persistence.File
    assert definition.flush_on_write is True
    assert definition.strategy_on_full == stream_manager.StrategyOnFull.RejectNewData
    server.stop(power_cut=True)
    assert server.streams[STREAM].messages, "flushed"
    assert not server.streams[f"{STREAM}-status"].messages, "positive control: what is not flushed is lost"


def test_a_manifest_is_appended_after_its_data_was_exported(
    filled: int, server: StreamManagerServer, deliver: Any
) -> None:
    server.online = False
    deliver(lambda uplink: "not exported it yet" in uplink.status.error)
    (key,) = server.appends
    assert key.endswith(".npz")
    server.online = True
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)


def test_a_taken_task_is_not_a_returned_sample(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any
) -> None:
    """What acknowledging an append alone would lose: Stream Manager drops a task that S3 refuses."""
    server.refuse = lambda key: "AccessDenied"
    uplink = deliver(lambda uplink: "AccessDenied" in uplink.status.error)
    assert len(server.appends) >= 1
    assert (uplink.status.returned, waiting(spool_folder)) == (0, filled)
    server.refuse = lambda key: ""
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)


def test_samples_that_count_as_returned_when_a_task_is_taken_are_lost(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The positive control of the test above."""
    monkeypatch.setattr(StreamExport, "_wait", lambda *_: None)
    server.refuse = lambda key: "AccessDenied"
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert waiting(spool_folder) == 0
    assert returned(server.objects) == Counter()


def test_a_full_stream_leaves_the_samples_in_the_spool(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any
) -> None:
    server.fault = lambda: "full"
    uplink = deliver(lambda uplink: "is full" in uplink.status.error)
    assert (uplink.status.returned, waiting(spool_folder), server.appends) == (0, filled, [])
    server.fault = lambda: ""
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)


@pytest.mark.parametrize("fault", ["lost", "cut"])
def test_an_answer_that_is_lost_costs_a_second_task_of_the_same_key(
    filled: int, server: StreamManagerServer, deliver: Any, fault: str
) -> None:
    appends = iter(range(1000))
    server.fault = lambda: fault if next(appends) % 2 == 0 else ""
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)
    assert (len(server.appends) > 6) == (fault == "lost"), "a task whose answer was lost came again"


def test_stream_manager_may_lose_everything_it_took(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any
) -> None:
    server.online = False
    deliver(lambda uplink: "not exported it yet" in uplink.status.error)
    server.stop()
    server.streams.clear()
    assert waiting(spool_folder) == filled
    server.online = True
    server.start()
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)


def test_a_task_without_a_report_is_appended_again_after_its_time(
    export: StreamExport, server: StreamManagerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.online = False
    for _ in range(3):
        with pytest.raises(TryAgain, match="not exported it yet"):
            export.put("devices/d/data/w/x.npz", b"content")
    assert len(server.appends) == 1
    monkeypatch.setattr(stream_export, "TASK_SECONDS", 0.0)
    with pytest.raises(TryAgain):
        export.put("devices/d/data/w/x.npz", b"content")
    assert len(server.appends) == 2
    server.online = True
    monkeypatch.setattr(stream_export, "TASK_SECONDS", 3600.0)
    assert export.put("devices/d/data/w/x.npz", b"content")


def test_a_stream_that_may_lose_tasks_is_refused(export: StreamExport, server: StreamManagerServer) -> None:
    assert export.put("first", b"1")
    for change in ({"flushOnWrite": False}, {"persistence": 1}, {"strategyOnFull": 1}, {"exportDefinition": {}}):
        export.close()
        server.streams[STREAM].definition |= change
        with pytest.raises(Refused, match=f"a stream {STREAM} that is not") as error:
            export.put("second", b"2")
        assert "another name" in error.value.remedy
        server.streams.clear()
        assert export.put("second", b"2")


def test_a_stream_manager_that_is_away_is_said_and_leaves_no_thread_behind(
    spool_folder: Path, filled: int, server: StreamManagerServer, deliver: Any, wait_for: Any
) -> None:
    server.stop()
    before = threading.active_count()
    errors = Counter[str]()

    def many(uplink: Uplink) -> bool:
        errors[uplink.status.error] += 1
        return sum(1 for error in errors if "does not answer" in error) > 0 and sum(errors.values()) > 40

    deliver(many)
    assert waiting(spool_folder) == filled
    wait_for(lambda: threading.active_count() <= before)
    server.start()
    deliver(lambda uplink: uplink.status.returned >= filled)
    assert_everything_once(server)


_COMMAND = """
import sys
from hybridge_edge import stream_export, uplink
stream_export.READ_MILLISECONDS = 50
from hybridge_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(spool_folder: Path, tmp_path: Path, port: int) -> subprocess.Popen[str]:
    (tmp_path / "run").mkdir(mode=0o700, exist_ok=True)
    return subprocess.Popen(
        [
            sys.executable, "-c", _COMMAND, "uplink", "--bucket", "data", "--thing", "device-1", "--via",
            "stream-manager", "--stream-manager-port", str(port), "--spool", str(spool_folder),
            "--batch-samples", "64", "--batch-seconds", "0.05",
        ],
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HYBRIDGE_"))},
            "HYBRIDGE_RUNTIME_DIR": str(tmp_path / "run"),
        },
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_kills_between_append_and_acknowledgement_lose_no_sample(
    spool_folder: Path, filled: int, server: StreamManagerServer, tmp_path: Path, wait_for: Any
) -> None:
    """Each life dies as a task of its is stored: before, or after the server could have answered it."""
    for life in range(4):
        alive: list[subprocess.Popen[str]] = []
        seen = iter(range(1000))

        def fault(life: int = life, alive: list[subprocess.Popen[str]] = alive, seen: Iterator[int] = seen) -> str:
            if next(seen) < life:  # each life gets one object further
                return ""
            wait_for(lambda: bool(alive))
            alive[0].send_signal(signal.SIGKILL)
            return "lost" if life % 2 else "cut"

        server.fault = fault
        alive.append(command(spool_folder, tmp_path, server.port))
        assert alive[0].wait(30) == -signal.SIGKILL
        alive[0].communicate()
    server.fault = lambda: ""
    process = command(spool_folder, tmp_path, server.port)
    wait_for(lambda: returned(server.objects) == Counter(range(filled)))
    wait_for(lambda: said_returned(tmp_path) == filled)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert_everything_once(server)
    assert waiting(spool_folder) == 0


def said_returned(tmp_path: Path) -> int:
    return UplinkStatus.read(tmp_path / "run").returned


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    uplink_module.add_arguments(parser)
    return parser.parse_args(["--bucket", "data", "--thing", "device-1", "--spool", "/nowhere", *words])


@pytest.mark.parametrize("mode", Mode)
def test_nucleus_lite_is_refused_with_the_reason(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVCUID", "token")
    socket = f"/somewhere/{limits_of(mode).socket_name}"
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", socket)
    reason = r"nucleus lite: Stream Manager is a Java component.*Set via to s3"
    with pytest.raises(UsageError, match=reason if mode is Mode.LITE else "stream is 'a/b'"):
        uplink_module.run(flags("--via", "stream-manager", "--stream", "a/b"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--via", "post"), "via is 'post', not one of s3, stream-manager"),
        (("--via", "stream-manager", "--endpoint", "https://10.0.0.1:8443"), "S3 of the device's region alone"),
        (("--via", "stream-manager", "--target", "snowball-edge"), "S3 of the device's region alone"),
        (("--via", "stream-manager", "--stream", "a/b"), "stream is 'a/b'"),
        (("--via", "stream-manager", "--stream-manager-port", "0"), "streamManagerPort is"),
        (("--conditional-writes", "perhaps"), "conditionalWrites is 'perhaps', not true or false"),
        (("--addressing", "sideways"), "addressing is 'sideways'"),
        (("--checksums", "md5"), "checksums is 'md5'"),
        (("--endpoint", "10.0.0.1:8443"), "is not an endpoint"),
        (("--endpoint", "https://user:secret@10.0.0.1"), "is not an endpoint"),
        (("--endpoint", "https://10.0.0.1:port"), "is not an endpoint"),
        (("--target", "toaster"), "There is no target 'toaster'"),
        (("--ca-file", "/nowhere.pem"), "caFile names '/nowhere.pem'"),
        (("--credentials-file", "/nowhere"), "credentialsFile names '/nowhere'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "x")
    with pytest.raises(UsageError) as error:
        uplink_module.run(flags(*words))
    assert said in str(error.value)


def test_without_the_sdk_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stream_manager", None)
    with pytest.raises(UsageError, match=r"hybridge-edge\[stream-manager\]"):
        StreamExport("data", tmp_path / "export")
