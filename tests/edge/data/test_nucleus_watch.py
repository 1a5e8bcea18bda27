"""What a component asks of its nucleus, against local core devices of both kinds."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybridge_cloud.sandbox.device.hosted import HostedCore
from hybridge_cloud.sandbox.device.testing import both_cores, core_device  # noqa: F401  fixtures
from hybridge_edge import greengrass
from hybridge_edge.contract.errors import InvalidDocument, Refused, Unavailable
from hybridge_edge.nucleus_watch import NucleusWatch, Objection

NAME = "Edge.Watched"
RECIPE = """
ComponentName: Edge.Watched
ComponentVersion: "1.0.0"
ComponentConfiguration:
  DefaultConfiguration:
    share: "0.5"
    accessControl:
      aws.greengrass.ipc.pubsub:
        one: {operations: ["*"], resources: ["edge/*"]}
Manifests:
  - Platform: {os: linux, runtime: "*"}
    Lifecycle:
      run: exec sleep 600
"""
OTHER = RECIPE.replace("Edge.Watched", "Edge.Other")
SECONDS = 15


@pytest.fixture
def core(both_cores: HostedCore, monkeypatch: pytest.MonkeyPatch) -> HostedCore:  # noqa: F811
    assert both_cores.deploy(RECIPE).succeeded
    for key, value in both_cores.environment(NAME).items():
        monkeypatch.setenv(key, value)
    return both_cores


@pytest.fixture
def nucleus(core: HostedCore) -> Iterator[greengrass.Nucleus]:
    connected = greengrass.connect()
    assert connected is not None
    with connected:
        yield connected


def test_an_update_waits_for_a_component_on_classic_and_lite_offers_no_say(
    core: HostedCore, nucleus: greengrass.Nucleus
) -> None:
    asked: list[float] = []

    def objection() -> float:
        asked.append(time.monotonic())
        return 0.2 if len(asked) < 3 else 0.0

    if core.mode == "lite":
        with pytest.raises(Refused, match="ServiceError"):
            nucleus.on_update(objection)
        assert core.deploy(OTHER).succeeded
        return
    nucleus.on_update(objection)
    assert core.deploy(OTHER).succeeded
    assert len(asked) == 3
    assert asked[2] - asked[0] >= 0.4


def test_a_component_judges_its_next_configuration_where_the_nucleus_asks(
    core: HostedCore, nucleus: greengrass.Nucleus
) -> None:
    seen: list[Any] = []

    def fault(configuration: Any) -> str:
        seen.append(configuration["share"])
        return "a share is at most 1" if float(configuration["share"]) > 1 else ""

    if core.mode == "lite":
        with pytest.raises(Refused, match="ServiceError"):
            nucleus.on_validation(fault)
        return
    nucleus.on_validation(fault)
    refused = core.deploy(RECIPE, merge={NAME: {"share": "7"}})
    assert not refused.succeeded
    assert "a share is at most 1" in refused.reason
    assert core.configuration(NAME)["share"] == "0.5"
    assert core.deploy(RECIPE, merge={NAME: {"share": "0.7"}}).succeeded
    assert seen == ["7", "0.7"]


def test_local_topics_reach_other_components_and_what_is_not_allowed_is_refused(
    core: HostedCore, nucleus: greengrass.Nucleus
) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    nucleus.subscribe("edge/+/results", heard.put)
    nucleus.publish("edge/one/results", b"\x00\xff")
    assert heard.get(timeout=SECONDS) == b"\x00\xff"
    with pytest.raises(Refused, match="accessControl"):
        nucleus.publish("elsewhere", b"x")
    with pytest.raises(Refused, match="accessControl"):
        nucleus.subscribe_to_iot_core("hybridge/#", lambda topic, payload: None)


def test_a_watch_hears_of_configuration_lives_through_a_restart_and_degrades_on_lite(
    core: HostedCore, wait_for: Callable[..., None]
) -> None:
    seen: list[Any] = []

    def configured(configuration: Any) -> None:
        seen.append(configuration["share"])
        if configuration["share"] == "nonsense":
            raise InvalidDocument("share is no number.")

    watch = NucleusWatch(configured=configured, objection=lambda: 0.0, fault=lambda _: "")
    watch.start()
    try:
        wait_for(lambda: seen == ["0.5"])
        _change(core, "nonsense")
        wait_for(lambda: seen[-1] == "nonsense")
        _change(core, "0.9")
        wait_for(lambda: seen[-1] == "0.9")
        old = core.environment(NAME)
        core.restart()
        with pytest.MonkeyPatch.context() as patch:
            for key, value in core.environment(NAME).items():
                patch.setenv(key, value)  # a nucleus makes its tokens anew
            assert core.environment(NAME) != old
            _change(core, "0.1")
            wait_for(lambda: seen[-1] == "0.1")
    finally:
        watch.close()


def _change(core: HostedCore, share: str) -> None:
    client = core.client(NAME)
    try:
        client.update_configuration(key_path=[], value_to_merge={"share": share})
    finally:
        client.close()


def test_without_a_nucleus_a_watch_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVCUID", raising=False)
    watch = NucleusWatch(configured=lambda _: pytest.fail("nobody is there"))
    watch.start()
    watch.close()


def test_a_nucleus_that_does_not_answer_is_tried_again(wait_for: Callable[..., None]) -> None:
    tries: list[int] = []

    def connect(_lost: Callable[[], None]) -> greengrass.Nucleus | None:
        tries.append(1)
        if len(tries) < 3:
            raise Unavailable("It restarts.")
        return None

    watch = NucleusWatch(connect=connect)
    watch.start()
    wait_for(lambda: len(tries) == 3)
    watch.close()


def test_an_objection_lasts_as_long_as_the_work_but_not_for_ever() -> None:
    working = [True]
    objection = Objection(lambda: working[0], recheck=0.05, longest=0.2)
    assert objection() == 0.05
    working[0] = False
    assert objection() == 0.0
    working[0] = True
    start = time.monotonic()
    while objection():
        time.sleep(0.02)
        assert time.monotonic() - start < 5
    assert time.monotonic() - start >= 0.2
