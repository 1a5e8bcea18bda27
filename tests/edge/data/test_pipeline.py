"""From a real broker through the real server to results, and from its spool to the real embedded account's bucket."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import numpy as np
import picture_package
import pytest

from hybridge_cloud.sandbox.lifecycle import RunningSandbox, running
from hybridge_edge.arrays import to_tensor
from hybridge_edge.client import InferenceAnswer
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract import names
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.errors import InvalidInput, ModelNotFound, Refused, Unavailable, UsageError
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.contract.window import Window
from hybridge_edge.mqtt import Broker, Connection
from hybridge_edge.pipeline import Pipeline, result
from hybridge_edge.runtime import ENDPOINT_FILE
from hybridge_edge.sources.messages import taker
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Reading

THING = "device-1"
DIGEST = "sha256:" + "a" * 64


def window(number: int) -> Window:
    values = np.random.default_rng(number).normal(size=(8, 3)).astype(np.float32)
    return Window(f"person1/{number}", (to_tensor("window", values),))


class Server:
    """A client of no server: answers or raises what it is told, in order; then answers."""

    def __init__(self, *happenings: Exception) -> None:
        self.happenings = list(happenings)
        self.asked: list[str] = []
        self.closed = 0

    def infer(self, model: str, inputs: Any, *, sample_id: str, timeout_s: float) -> InferenceAnswer:
        self.asked.append(sample_id)
        if self.happenings:
            raise self.happenings.pop(0)
        outputs: dict[str, Any] = {"scores": np.array([[0.1, 0.7, 0.2]], np.float32)}
        return InferenceAnswer(outputs, model, "1.0.0", sample_id, DIGEST, "CPU", 1, 2, 3, 6)

    def close(self) -> None:
        self.closed += 1


def turn(server: Server, count: int, wait_for: Any, publish: Any = None) -> tuple[Pipeline, list[bytes]]:
    """Run a pipeline over ``count`` windows until each was answered or failed."""
    queue, stop = ReadingQueue(), threading.Event()
    put = taker(queue, Configuration(), THING)
    results: list[bytes] = []
    for number in range(count):
        put(window(number).to_bytes())
    pipeline = Pipeline(queue, "watch", (publish or results.append,), connect=lambda: server)  # type: ignore[arg-type,return-value]
    thread = threading.Thread(target=pipeline.run, args=(stop,))
    thread.start()
    wait_for(lambda: pipeline.counters.answered + pipeline.counters.failed == count)
    stop.set()
    thread.join()
    return pipeline, results


def test_a_server_that_is_away_is_asked_again_and_no_window_is_lost(wait_for: Any) -> None:
    server = Server(Unavailable("away"), ModelNotFound("not yet"), Unavailable("away"))
    pipeline, results = turn(server, 3, wait_for)
    assert (pipeline.counters.answered, pipeline.counters.failed) == (3, 0)
    assert [json.loads(line)["sample_id"] for line in results] == [f"person1/{n}" for n in range(3)]
    assert server.asked == ["person1/0"] * 4 + ["person1/1", "person1/2"]
    assert server.closed == 4, "a server that comes back may listen elsewhere"


def test_a_window_that_the_model_refuses_is_not_sent_again(wait_for: Any) -> None:
    server = Server(InvalidInput("wrong shape"), Refused("no"))
    pipeline, results = turn(server, 3, wait_for)
    assert (pipeline.counters.answered, pipeline.counters.failed) == (1, 2)
    assert server.asked == ["person1/0", "person1/1", "person1/2"]
    assert len(results) == 1


def test_a_result_that_cannot_be_sent_is_counted_and_the_next_one_goes_on(wait_for: Any) -> None:
    def publish(payload: bytes) -> None:
        raise Unavailable("no broker")

    pipeline, _ = turn(Server(), 2, wait_for, publish)
    assert (pipeline.counters.answered, pipeline.counters.unpublished) == (2, 2)


def test_a_result_says_class_label_version_and_times() -> None:
    outputs: dict[str, Any] = {
        "scores": np.array([[0.1, 0.7, 0.2]], np.float32),
        "large": np.zeros((1, 65), np.float32),
        "broken": np.array([[np.nan]], np.float32),
    }
    answer = InferenceAnswer(outputs, "watch", "2.0.0", "person1/1", DIGEST, "CPU", 1, 2, 3, 6)
    fields = json.loads(result(Reading("person1/1", {}), answer, ("left", "right", "still")))
    assert (fields["class"], fields["label"], fields["version"]) == (1, "right", "2.0.0")
    assert fields["confidence"] == pytest.approx(0.7)
    assert set(fields["outputs"]) == {"scores"}
    assert (fields["features_us"], fields["infer_us"], fields["total_us"]) == (2, 3, 6)
    assert json.loads(result(Reading("person1/1", {}), answer, ()))["label"] == ""


@pytest.mark.parametrize("missing", ["key", "ca", "file"])
def test_half_a_certificate_is_refused(tmp_path: Path, missing: str) -> None:
    paths: dict[str, Path | None] = {name: tmp_path / name for name in ("ca", "certificate", "key")}
    for path in paths.values():
        assert path is not None
        path.write_text("no certificate")
    if missing in paths:
        paths[missing] = None
    with pytest.raises(UsageError):
        Broker("127.0.0.1", 1, **paths).context()


def test_a_broker_that_is_away_is_named_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Connection(Broker("127.0.0.1", port), "device-1-pipeline") as connection:
        connection.start()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer: .*refused"):
            connection.wait_ready(1)
    assert "refused" in caplog.text


@pytest.fixture(scope="module")
def sandbox() -> Iterator[RunningSandbox]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def broker(sandbox: RunningSandbox) -> Broker:
    found = json.loads((sandbox.folder.root / "sensors" / "mqtt.json").read_text())
    return Broker(found["host"], found["port"], Path(found["ca"]), Path(found["certificate"]), Path(found["key"]))


class Device:
    """Starts commands of one device, as its components would be."""

    def __init__(self, runtime: Path, environment: dict[str, str]) -> None:
        self.runtime = runtime
        self.started: list[subprocess.Popen[bytes]] = []
        self._environment = environment

    def __call__(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hybridge_edge.cli", *arguments]
        self.started.append(subprocess.Popen(command, env=self._environment))
        return self.started[-1]


@pytest.fixture
def device(sandbox: RunningSandbox, trust: TrustDocument) -> Iterator[Device]:
    """A device whose processes are all gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    (folder / "trust.json").write_bytes(trust.to_bytes())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HYBRIDGE_"))},
        **sandbox.environment,
        "HYBRIDGE_RUNTIME_DIR": str(folder / "run"),
        "HYBRIDGE_TRUST": str(folder / "trust.json"),
        "AWS_IOT_THING_NAME": THING,
    }
    one = Device(folder / "run", environment)
    yield one
    for process in one.started:
        process.terminate()
    for process in one.started:
        process.wait(30)
    shutil.rmtree(folder)


def test_a_topic_that_cannot_be_is_refused() -> None:
    with Connection(Broker("127.0.0.1", 1), "device-1-pipeline") as connection, pytest.raises(Refused, match="topic"):
        connection.publish("results/#", b"x")


def test_messages_that_no_broker_takes_are_said_at_the_close(caplog: pytest.LogCaptureFixture) -> None:
    with Connection(Broker("127.0.0.1", 1), "device-1-pipeline") as connection:
        connection.publish("results", b"x")
    assert "1 messages were not sent" in caplog.text


CLOSE_TOPIC = "sensors/close/windows"


def test_what_was_published_before_the_close_arrives(broker: Broker, wait_for: Any) -> None:
    found: list[bytes] = []
    with Connection(broker, "close-listener", CLOSE_TOPIC, found.append) as listener:
        listener.start()
        listener.wait_ready(20)
        with Connection(broker, "close-sender") as sender:
            sender.start()
            sender.wait_ready(20)
            for number in range(300):
                sender.publish(CLOSE_TOPIC, b"%d" % number)
        wait_for(lambda: len(found) >= 300)
    assert [int(payload) for payload in found] == list(range(300))


def test_windows_become_results_and_samples_in_the_bucket_over_a_change_of_version(
    tmp_path: Path, sandbox: RunningSandbox, broker: Broker, kit: ModuleType, device: Device, wait_for: Any
) -> None:
    device("serve", "--store", str(tmp_path / "store"), "--spool", str(tmp_path / "spool"), "--capture-share", "1")
    wait_for(lambda: (device.runtime / ENDPOINT_FILE).exists())
    packages = [kit.build(tmp_path / f"package-{n}", f"{n}.0.0", float(n)) for n in (1, 2)]
    device("activate", str(packages[0].folder), "--epoch", "1").wait(30)
    tls = [
        "--broker-ca",
        str(broker.ca),
        "--broker-certificate",
        str(broker.certificate),
        "--broker-key",
        str(broker.key),
    ]
    pipeline = device(
        "pipeline", "--model", "watch", "--broker-host", broker.host, "--broker-port", str(broker.port), *tls
    )
    uplink = device("uplink", "--batch-samples", "16", "--batch-seconds", "0.3")

    results: dict[str, dict[str, Any]] = {}

    def take(payload: bytes) -> None:
        fields = json.loads(payload)
        assert fields["sample_id"] not in results, "a result came twice"
        results[fields["sample_id"]] = fields

    with (
        Connection(broker, "sensors-test", names.results_topic(THING), take) as listener,
        Connection(broker, "sensors-replay") as sensors,
    ):
        for connection in (listener, sensors):
            connection.start()
            connection.wait_ready(20)
        topic = names.windows_topic(THING)
        ping = Window("ping", window(0).tensors)

        def answered() -> bool:
            sensors.publish(topic, ping.to_bytes())
            return "ping" in results

        wait_for(answered)
        for number in range(40):
            sensors.publish(topic, window(number).to_bytes())
            sensors.publish(topic, window(number).to_bytes())  # as QoS 1 may
            if number == 20:
                device("activate", str(packages[1].folder), "--epoch", "2").wait(30)
        wait_for(lambda: len(results) == 41)

    for number in range(40):
        fields = results[f"person1/{number}"]
        values = np.frombuffer(window(number).tensors[0].data, np.float32).reshape(8, 3)
        factor = {"1.0.0": 1.0, "2.0.0": 2.0}[fields["version"]]
        expected = kit.scores(values[np.newaxis], factor)[0]
        np.testing.assert_allclose(fields["outputs"]["scores"], expected, rtol=1e-5)
        assert fields["label"] == ("left", "right", "still")[int(np.argmax(expected))]
    assert results["person1/39"]["version"] == "2.0.0"
    assert results["person1/0"]["version"] == "1.0.0"

    client = boto3.client(
        "s3",
        endpoint_url=sandbox.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox",
        region_name="us-east-1",
    )

    def stored() -> list[str]:
        found: list[str] = []
        for entry in client.list_objects_v2(Bucket=sandbox.bucket, Prefix=f"devices/{THING}/batches/").get(
            "Contents", []
        ):
            manifest = BatchManifest.from_bytes(
                client.get_object(Bucket=sandbox.bucket, Key=entry["Key"])["Body"].read()
            )
            data = client.get_object(Bucket=sandbox.bucket, Key=manifest.data_key)["Body"].read()
            arrays = np.load(io.BytesIO(data), allow_pickle=False)
            assert arrays["features.mean"].shape == (manifest.count, 3)
            found += arrays["sample_id"].tolist()
        return found

    wait_for(lambda: len(stored()) >= 41)
    assert sorted(stored()) == sorted(results)
    for process in (pipeline, uplink):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


PICTURES = names.windows_topic(THING)


def test_jpegs_from_the_broker_and_pictures_from_files_become_results(
    tmp_path: Path, broker: Broker, kit: ModuleType, device: Device, wait_for: Any
) -> None:
    device("serve", "--store", str(tmp_path / "store"), "--spool", str(tmp_path / "spool"))
    wait_for(lambda: (device.runtime / ENDPOINT_FILE).exists())
    picture_package.build(tmp_path / "package", kit, picture_package.jpeg_codec())
    device("activate", str(tmp_path / "package"), "--epoch", "1").wait(30)
    pictures = [picture_package.encode(picture_package.scene(seed)) for seed in range(6)]
    files = tmp_path / "belt"
    files.mkdir()
    for number, picture in enumerate(pictures):
        (files / f"{number}.jpg").write_bytes(picture)
    common = ["--model", picture_package.MODEL, "--source-input", "picture"]
    tls = ["--broker-host", broker.host, "--broker-port", str(broker.port), "--broker-ca", str(broker.ca)]
    tls += ["--broker-certificate", str(broker.certificate), "--broker-key", str(broker.key)]

    results: list[dict[str, Any]] = []
    topic = names.results_topic(THING)
    with (
        Connection(broker, "pictures-test", topic, lambda payload: results.append(json.loads(payload))) as listener,
        Connection(broker, "pictures-camera") as camera,
    ):
        for connection in (listener, camera):
            connection.start()
            connection.wait_ready(20)
        replay = device("pipeline", *common, *tls, "--source", "replay", "--source-path", str(files))
        assert replay.wait(30) == 0, "the files have an end"
        wait_for(lambda: len(results) == 6)
        assert [fields["sample_id"] for fields in results] == [f"belt/{number}" for number in range(6)]

        pipeline = device("pipeline", *common, *tls, "--source-payload", "encoded")
        played = {fields["sample_id"]: fields["outputs"] for fields in results}
        results.clear()

        def answered() -> bool:
            camera.publish(PICTURES, pictures[3])
            return bool(results)

        wait_for(answered)
        count = len(results)
        camera.publish(PICTURES, pictures[3][:-200])  # damaged: counted as failed, and the next one is answered
        camera.publish(PICTURES, pictures[3])
        wait_for(lambda: len(results) > count)
        pipeline.send_signal(signal.SIGTERM)
        assert pipeline.wait(30) == 0
    assert {json.dumps(fields["outputs"]) for fields in results} == {json.dumps(played["belt/3"])}
