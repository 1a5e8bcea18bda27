"""What a deployment hands a component, as each nucleus hands it, becomes typed settings or one sentence."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybridge_cloud.sandbox.device.ipc import Answer, Denied, IpcServer, Stream
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_edge import pipeline, settings, uplink
from hybridge_edge.cli import serve
from hybridge_edge.configuration import MAX_TOPIC_BYTES, Configuration
from hybridge_edge.contract.errors import UsageError

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
Deploy = Callable[[Mapping[str, object]], None]


def read(value: object) -> Configuration:
    return Configuration({"key": value})


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    """Make this process a component whose deployment's configuration is what the test says, read over real IPC."""
    deployed: dict[str, object] = {}

    async def operate(name: str, request: Mapping[str, Any], stream: Stream) -> Answer:
        if name != "GetConfiguration":
            raise Denied("ServiceError", f"{name} is not there")
        return Answer("GetConfigurationResponse", {"componentName": "c", "value": deployed})

    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))  # a socket's path is short
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = IpcServer(folder / "ipc.socket", limits_of(Mode.LITE), {"token": "c"}.get, operate)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", str(folder / "ipc.socket"))
    monkeypatch.setenv("SVCUID", "token")
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(folder / "run"))
    for name in ("HYBRIDGE_BUCKET", "AWS_IOT_THING_NAME", *map(settings.variable, settings._NAMES)):
        monkeypatch.delenv(name, raising=False)
    yield lambda values: deployed.update(values)
    asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    shutil.rmtree(folder)


def serving() -> settings.ServeSettings:
    parser = argparse.ArgumentParser()
    settings.add_arguments(parser)
    return settings.read(parser.parse_args(["--configuration"]))


def defaults(template: str) -> dict[str, object]:
    found = yaml.safe_load((RECIPES / f"{template}.yaml").read_text())
    configuration: dict[str, object] = found["ComponentConfiguration"]["DefaultConfiguration"]
    return configuration


@pytest.mark.parametrize("value", ["3", 3, 3.0, "3.0", "3.00000000000000000", " 3 ", "3e0"])
def test_a_whole_number_may_be_written_in_every_way_a_nucleus_hands_it(value: object) -> None:
    assert read(value).integer("key", 1, 0, 10) == 3


@pytest.mark.parametrize("value", ["0.5", 0.5, "0.50000000000000000", "5e-1"])
def test_a_decimal_may_be_written_in_every_way_a_nucleus_hands_it(value: object) -> None:
    assert read(value).number("key", 1.0, 0.0, 1.0) == 0.5


@pytest.mark.parametrize(
    "value", ["many", "true", True, "1_0", "0x1", "nan", "inf", -1, "11", 10**400, "9" * 400, [1], {"a": 1}, "1,5"]
)
def test_what_is_no_number_of_the_range_is_refused_with_the_settings_name(value: object) -> None:
    with pytest.raises(UsageError, match=r"^key is ['\"]") as refused:
        read(value).number("key", 1.0, 0.0, 10.0)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("value", ["3.5", 3.5])
def test_a_fraction_is_no_whole_number(value: object) -> None:
    with pytest.raises(UsageError, match="not a whole number"):
        read(value).integer("key", 1, 0, 10)


@pytest.mark.parametrize("value", [True, ["a"], {"a": "b"}])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="not a text"):
        read(value).text("key")


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_leaves_the_default(value: object) -> None:
    assert read(value).text("key", "default") == "default"
    assert read(value).number("key", 0.5, 0.0, 1.0) == 0.5
    assert read(value).choice("key", ("first", "second")) == "first"


@pytest.mark.parametrize("value", ["a/+/b", "#", "+", "a/#", "a/b"])
def test_a_topic_filter_may_hold_wildcards_and_a_topic_may_not(value: str) -> None:
    assert read(value).topic("key", wildcards=True) == value
    if value != "a/b":
        with pytest.raises(UsageError, match="without wildcards"):
            read(value).topic("key")


@pytest.mark.parametrize("value", ["a/#/b", "a+", "a/b#", "a\0b", "é" * (MAX_TOPIC_BYTES // 2 + 1)])
def test_what_no_broker_takes_is_no_topic(value: str) -> None:
    with pytest.raises(UsageError, match="a topic"):
        read(value).topic("key", wildcards=True)


def test_the_servers_own_recipe_is_read_into_typed_settings(deploy: Deploy) -> None:
    deploy(defaults("InferenceServer"))
    found = serving()
    assert (found.tcp, found.capture_share, found.capture_confidence_below) == ("127.0.0.1:8001", 0.1, 0.6)
    assert (found.spool_megabytes, found.live_share, found.report_seconds) == (256, 0.05, 60.0)


def test_texts_of_lite_and_numbers_of_classic_are_the_same_settings(deploy: Deploy) -> None:
    typed = {"captureShare": 0.25, "spoolMegabytes": 64, "threads": 2, "runSeconds": 5.0, "logFormat": "json"}
    deploy(typed)
    of_classic = serving()
    deploy({name: f"{value:.17f}" if isinstance(value, float) else str(value) for name, value in typed.items()})
    assert serving() == of_classic
    assert (of_classic.capture_share, of_classic.threads, of_classic.log_format) == (0.25, 2, "json")


PIPELINE = {"model": "watch", "thing": "device-1"}
UPLINK = {"bucket": "some-bucket", "thing": "device-1"}


@pytest.mark.parametrize(
    ("command", "deployed", "said"),
    [
        ("serve", {"captureShare": "often"}, "captureShare is 'often', not a number"),
        ("serve", {"spoolMegabytes": "1.5"}, "spoolMegabytes is '1.5', not a whole number"),
        ("serve", {"threads": True}, "threads is 'True'"),
        ("serve", {"logFormat": "xml"}, "logFormat is 'xml', not one of text, json"),
        ("serve", {"tcp": {"port": "1"}}, "tcp is \"{'port': '1'}\", not a text"),
        ("serve", {"tcp": "everywhere"}, "'everywhere' is not HOST:PORT"),
        ("serve", {"metrics": "10.0.0.1:9464"}, "stays on this machine"),
        ("pipeline", {"thing": "device-1"}, "model is not set"),
        ("pipeline", {**PIPELINE, "brokerPort": "many"}, "brokerPort is 'many', not a number"),
        ("pipeline", {**PIPELINE, "brokerPort": "0"}, "brokerPort is '0', not a number from 1 to 65535"),
        ("pipeline", {**PIPELINE, "brokerCa": "/no/such/file"}, "brokerCa names '/no/such/file', which is no file"),
        ("pipeline", {**PIPELINE, "sourceTopic": "a/#/b"}, "sourceTopic is 'a/#/b', not a topic filter"),
        ("pipeline", {**PIPELINE, "resultTopic": "results/#"}, "resultTopic is 'results/#', not a topic without"),
        ("pipeline", {**PIPELINE, "localTopic": "+"}, "localTopic is '+', not a topic without"),
        ("uplink", {"thing": "device-1"}, "bucket is not set"),
        ("uplink", {**UPLINK, "batchSamples": "0"}, "batchSamples is '0'"),
        ("uplink", {**UPLINK, "batchSeconds": "soon"}, "batchSeconds is 'soon', not a number"),
    ],
)
def test_nonsense_in_a_deployment_ends_a_component_with_one_sentence(
    command: str, deployed: Mapping[str, object], said: str, deploy: Deploy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    deploy(deployed)
    module = {"serve": serve, "pipeline": pipeline, "uplink": uplink}[command]
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    with pytest.raises(UsageError) as refused:
        module.run(parser.parse_args(["--configuration"]))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
