"""Greengrass IPC through the unmodified SDK, against the local core device's own IPC server."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridge_cloud.sandbox.device.ipc import Answer, Denied, IpcServer, Stream
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_edge import greengrass
from hybridge_edge.arrays import to_tensor
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused, Unavailable
from hybridge_edge.contract.report import DeviceReport, Evidence, ModelReport
from hybridge_edge.contract.scores import OUTERMOST, STEPS, ScoreSketch
from hybridge_edge.contract.sketch import BUCKETS, Sketch
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.telemetry import Beside, Telemetry
from hybridge_edge.contract.window import Window
from hybridge_edge.reporting import (
    PERIOD_SECONDS,
    SEQUENCE_BLOCK,
    Durations,
    Reporter,
    Snapshot,
    _fitting_bytes,
    fitting,
)
from hybridge_edge.sources.source import Context, open_source

DIGEST = "sha256:" + "a" * 64


@dataclass
class Core:
    """A nucleus' IPC in a thread, and what components said to it."""

    socket: Path
    configuration: dict[str, Any] = field(default_factory=dict)
    published: list[tuple[str, bytes]] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    refuse: str = ""
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    server: Any = None

    async def operate(self, name: str, request: Mapping[str, Any], stream: Stream) -> Answer:
        if self.refuse:
            raise Denied(self.refuse, "told to refuse")
        if name == "GetConfiguration":
            value: Any = self.configuration
            for key in request.get("keyPath") or []:
                if key not in value:
                    raise Denied("ResourceNotFoundError", f"no {key}")
                value = value[key]
            return Answer("GetConfigurationResponse", {"componentName": "c", "value": value})
        if name == "PublishToIoTCore":
            self.published.append((request["topicName"], base64.b64decode(request["payload"])))
            return Answer("PublishToIoTCoreResponse", {})
        if name == "SubscribeToTopic":
            self.streams[request["topic"]] = stream
            return Answer("SubscribeToTopicResponse", {"topicName": request["topic"]}, True)
        if name == "PublishToTopic":
            message = request["publishMessage"]
            self.streams[request["topic"]].event("SubscriptionResponseMessage", message)
            return Answer("PublishToTopicResponse", {})
        if name == "SubscribeToConfigurationUpdate":
            self.streams["configuration"] = stream
            return Answer("SubscribeToConfigurationUpdateResponse", {}, True)
        raise Denied("ServiceError", f"{name} is not there")

    def touch_configuration(self) -> None:
        event = {"configurationUpdateEvent": {"componentName": "c", "keyPath": ["x"]}}
        stream = self.streams["configuration"]
        self.loop.call_soon_threadsafe(stream.event, "ConfigurationUpdateEvents", event)

    def do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    one = Core(folder / "ipc.socket")
    thread = threading.Thread(target=one.loop.run_forever)
    thread.start()
    one.server = IpcServer(one.socket, limits_of(Mode.LITE), {"token": "c"}.get, one.operate)
    one.do(one.server.start())
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", str(one.socket))
    monkeypatch.setenv("SVCUID", "token")
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(folder / "run"))
    yield one
    one.do(one.server.close())
    one.loop.call_soon_threadsafe(one.loop.stop)
    thread.join()
    one.loop.close()
    shutil.rmtree(folder)


def test_without_a_nucleus_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", raising=False)
    monkeypatch.delenv("SVCUID", raising=False)
    assert greengrass.connect() is None
    with pytest.raises(Unavailable, match="no Greengrass nucleus"):
        greengrass.component_configuration()


def test_a_nucleus_that_is_away_is_unavailable(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", str(core.socket) + ".not")
    with pytest.raises(Unavailable, match="does not answer"):
        greengrass.connect()


def test_configuration_is_read_whole_and_by_path(core: Core) -> None:
    core.configuration = {"bucket": "data", "deep": {"batchSamples": "256"}}
    assert greengrass.component_configuration() == core.configuration
    with _connected() as nucleus:
        assert nucleus.configuration(["deep"]) == {"batchSamples": "256"}
        assert nucleus.configuration(["missing"]) == {}


def test_messages_go_to_the_cloud_and_to_other_components(core: Core, wait_for: Callable[..., None]) -> None:
    heard: list[bytes] = []
    with _connected() as nucleus:
        nucleus.publish_to_iot_core("hybridge/device-1/telemetry", b"\x00\xff")
        nucleus.subscribe("hybridge/device-1/results", heard.append)
        nucleus.publish("hybridge/device-1/results", b"\x01result")
        wait_for(lambda: bool(heard))
    assert core.published == [("hybridge/device-1/telemetry", b"\x00\xff")]
    assert heard == [b"\x01result"]


def test_a_change_of_configuration_is_heard(core: Core, wait_for: Callable[..., None]) -> None:
    changes: list[int] = []
    with _connected() as nucleus:
        nucleus.on_configuration(lambda: changes.append(1))
        core.touch_configuration()
        wait_for(lambda: len(changes) == 1)


@pytest.mark.parametrize("error", ["ServiceError", "UnauthorizedError"])
def test_what_the_nucleus_lacks_or_denies_is_refused_and_the_connection_lives_on(core: Core, error: str) -> None:
    with _connected() as nucleus:
        core.refuse = error
        with pytest.raises(Refused, match=error):
            nucleus.publish_to_iot_core("topic", b"")
        core.refuse = ""
        nucleus.publish_to_iot_core("topic", b"")


def test_a_message_that_would_end_the_connection_is_not_sent(core: Core) -> None:
    with _connected() as nucleus:
        nucleus.publish_to_iot_core("topic", b"x" * greengrass.MAX_MESSAGE_BYTES)
        with pytest.raises(Refused, match="over 5120"):
            nucleus.publish_to_iot_core("topic", b"x" * (greengrass.MAX_MESSAGE_BYTES + 1))
    assert len(core.published) == 1


def test_a_source_takes_messages_of_the_bus_and_subscribes_again_when_the_nucleus_was_away(
    core: Core, wait_for: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    topic = names.windows_topic("device-1")
    context = Context("device-1", Configuration(), lambda: pytest.fail("it needs no broker"))
    source = open_source("greengrass", context)
    try:
        wait_for(lambda: topic in core.streams)

        def give(number: int) -> None:
            window = Window(f"bus/{number}", (to_tensor("x", np.array([number], np.float32)),))
            with _connected() as nucleus:
                nucleus.publish(topic, window.to_bytes())

        give(1)
        first = source.next(5)
        assert first is not None
        assert (first.sample_id, first.inputs["x"].tolist()) == ("bus/1", [1.0])
        core.streams.clear()
        core.do(core.server.close())
        wait_for(lambda: source.counters().lost >= 1)
        core.do(core.server.start())
        wait_for(lambda: topic in core.streams)
        give(2)
        second = source.next(5)
        assert second is not None
        assert second.sample_id == "bus/2"
        assert "nucleus" in caplog.text
    finally:
        source.close()


def _connected() -> greengrass.Nucleus:
    nucleus = greengrass.connect()
    assert nucleus is not None
    return nucleus


def model(number: int = 1, reason: str = "") -> ModelReport:
    return ModelReport(f"model-{number}", "1.0.0", DIGEST, PackageState.ACTIVE, "rollout-1", 1, "CPU", reason)


@pytest.fixture
def reporter(core: Core, tmp_path: Path) -> Iterator[Callable[..., Reporter]]:
    started: list[Reporter] = []

    def make(models: list[ModelReport], **options: Any) -> Reporter:
        plain: dict[str, Any] = {
            "snapshot": lambda: Snapshot("1.0.0", tuple(models), 7, 8),
            "evaluating_seconds": 60.0,
        }
        one = Reporter("device-1", folder=tmp_path, **{**plain, **options})
        started.append(one)
        one.start()
        return one

    yield make
    for one in started:
        one.close()


def reports(core: Core) -> list[DeviceReport]:
    found = []
    for topic, payload in core.published:
        assert topic == "$aws/things/device-1/shadow/name/hybridge/update"
        reported = json.loads(payload)["state"]["reported"]
        found.append(DeviceReport.from_bytes(json.dumps(reported).encode()))
    return found


def test_a_report_is_sent_at_the_start_and_on_change(core: Core, reporter: Any, wait_for: Any) -> None:
    models = [model(1)]
    one = reporter(models)
    wait_for(lambda: len(core.published) == 1)
    models.append(model(2))
    one.changed()
    wait_for(lambda: len(core.published) == 2)
    first, second = reports(core)
    assert (first.thing, first.captured, first.spool_bytes, first.models) == ("device-1", 7, 8, (model(1),))
    assert second.models == (model(1), model(2))
    assert second.sequence == first.sequence + 1


def test_the_sequence_grows_over_restarts_and_a_lost_file(
    core: Core, reporter: Any, wait_for: Any, tmp_path: Path
) -> None:
    for life in range(1, 4):
        one = reporter([model()])
        wait_for(lambda life=life: len(core.published) >= life)
        one.close()
        if life == 2:
            (tmp_path / "report.json").write_text("{")
    sequences = [report.sequence for report in reports(core)]
    assert sequences == sorted(set(sequences))
    assert sequences[1] - sequences[0] <= SEQUENCE_BLOCK + 1


def test_a_report_waits_for_the_nucleus_and_then_says_the_newest(core: Core, reporter: Any, wait_for: Any) -> None:
    attempts: list[int] = []

    def connect() -> greengrass.Nucleus | None:
        attempts.append(1)
        if len(attempts) < 3:
            raise Unavailable("The nucleus restarts.")
        return greengrass.connect()

    models = [model(1)]
    one = reporter(models, connect=connect)
    wait_for(lambda: len(attempts) >= 1)
    models[0] = model(2)
    one.changed()
    wait_for(lambda: len(core.published) == 1)
    assert reports(core)[0].models == (model(2),)


def test_while_a_rollout_judges_reports_come_often_and_durations_with_them_when_there_are_new_ones(
    core: Core, reporter: Any, wait_for: Any
) -> None:
    durations = [Durations("model-1", "1.0.0", DIGEST, "fleet-3", 3, 10, Sketch([(7, 2)]))]
    judged = [True]

    def snapshot() -> Snapshot:
        return Snapshot("1.0.0", (model(1),), evaluating=judged[0], durations=tuple(durations))

    def sent(topic: str) -> list[bytes]:
        return [payload for name, payload in core.published if name == topic]

    one = reporter([], snapshot=snapshot, evaluating_seconds=0.02, fresh_seconds=0.0)
    wait_for(lambda: len(sent("$aws/things/device-1/shadow/name/hybridge/update")) >= 3)
    assert len(sent("hybridge/device-1/telemetry")) == 1
    durations[0] = replace(durations[0], latency=Sketch([(7, 2), (9, 1)]))
    wait_for(lambda: len(sent("hybridge/device-1/telemetry")) == 2)
    message = Telemetry.from_bytes(sent("hybridge/device-1/telemetry")[1])
    assert (message.thing, message.rollout, message.latency.count) == ("device-1", "fleet-3", 3)
    judged[0] = False
    one.changed()
    wait_for(lambda: one._period == PERIOD_SECONDS)


def test_a_server_that_has_just_started_reports_often_and_then_no_more(
    core: Core, reporter: Any, wait_for: Any
) -> None:
    one = reporter([model(1)], evaluating_seconds=0.02, fresh_seconds=1.0)
    wait_for(lambda: len(core.published) >= 3)
    wait_for(lambda: one._period == PERIOD_SECONDS)


def test_scores_go_with_the_durations_and_stay_behind_where_both_have_no_room(
    core: Core, reporter: Any, wait_for: Any
) -> None:
    scores = ScoreSketch([(bucket, 10**9) for bucket in range(STEPS)])
    wide = Sketch((bucket, 10**6) for bucket in range(380))
    durations = (
        Durations("model-1", "1.0.0", DIGEST, "", 3, 10, Sketch([(7, 2)]), scores),
        Durations("model-2", "1.0.0", DIGEST, "", 3, 10, wide, scores),
    )
    reporter([], snapshot=lambda: Snapshot("1.0.0", (model(1),), durations=durations))
    wait_for(lambda: len(core.published) == 3)
    small, large = (Telemetry.from_bytes(payload) for topic, payload in core.published if topic.endswith("telemetry"))
    assert small.scores is not None
    assert small.scores.counts == scores.counts
    assert large.scores is None
    assert large.latency.count == wide.count


def test_a_shadow_s_telemetry_goes_beside_the_active_version_s_and_loses_its_scores_first(
    core: Core, reporter: Any, wait_for: Any
) -> None:
    full = ScoreSketch([(bucket, 10**9) for bucket in range(-OUTERMOST, OUTERMOST)])
    small = ScoreSketch([(10, 3)])
    durations = tuple(
        Durations("model-1", version, DIGEST, "", 3, 10, Sketch([(7, 2)]), scores, beside)
        for version, scores, beside in (
            ("1.0.0", small, None),
            ("1.1.0", small, Beside(DIGEST, 9, 1, small)),
        )
    )
    one = reporter([], snapshot=lambda: Snapshot("1.0.0", (model(1),), durations=durations))
    wait_for(lambda: len(core.published) == 3)
    said = [Telemetry.from_bytes(payload) for topic, payload in core.published if topic.endswith("telemetry")]
    assert [(item.version, item.beside is not None) for item in said] == [("1.0.0", False), ("1.1.0", True)]
    one.changed()
    wait_for(lambda: len(core.published) == 4)  # the report alone: neither has answered since
    large = Telemetry("t", 1, "m", "1.1.0", DIGEST, "", 3, 10, Sketch([(7, 2)]), full, Beside(DIGEST, 9, 1, full))
    cut = Telemetry.from_bytes(_fitting_bytes(large))
    assert (cut.scores, cut.beside) == (None, Beside(DIGEST, 9, 1, None))


def test_durations_that_cannot_be_sent_hold_no_report_back(core: Core, reporter: Any, wait_for: Any) -> None:
    huge = Durations("model-1", "1.0.0", DIGEST, "", 3, 10, Sketch((bucket, 10**15) for bucket in range(BUCKETS)))
    reporter([], snapshot=lambda: Snapshot("1.0.0", (model(1),), 7, 8, True, (huge,)), evaluating_seconds=0.02)
    wait_for(lambda: len(core.published) >= 3)
    assert len(reports(core)) == len(core.published)


def test_the_evidence_of_the_newest_hand_over_is_the_last_to_be_left_out() -> None:
    full = Evidence(DIGEST, *(10**12 for _ in range(12)))
    many = tuple(replace(model(number), epoch=number, evidence=full) for number in (3, 1, 2, 4, 5))
    report = fitting(DeviceReport("device-1", 1, "1.0.0", many))
    left = {one.epoch for one in report.models if one.evidence is not None}
    assert [one.model for one in report.models] == [one.model for one in many]
    assert 0 < len(left) < 5
    assert left == set(range(6 - len(left), 6))


def test_without_a_nucleus_a_reporter_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVCUID", raising=False)
    one = Reporter("device-1", lambda: pytest.fail("nobody asked"), tmp_path, evaluating_seconds=60.0)
    one.start()
    one.changed()
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_a_report_always_fits() -> None:
    many = tuple(model(number, "a long reason " * 20) for number in range(30))
    report = fitting(DeviceReport("device-1", 1, "1.0.0", many))
    assert 0 < len(report.models) < 30
    assert len(report.to_bytes()) <= 3072
    assert report.models[0].model == "model-0"
    small = DeviceReport("device-1", 1, "1.0.0", (model(1, "reason"),))
    assert fitting(small) == small
