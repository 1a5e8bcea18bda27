"""A server that follows its deployment while it serves, and has updates wait while calls end: real core devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy
import pytest
from slow_graphs import looping, with_loop

from hybridge_cloud.sandbox.device.hosted import HostedCore
from hybridge_cloud.sandbox.device.testing import both_cores, core_device  # noqa: F401  fixtures
from hybridge_edge import trials
from hybridge_edge.cli import main
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.live_settings import FILE, LiveSettings, Told
from hybridge_edge.settings import ServeSettings, Source

NAME = "Edge.Server"
RECIPE = """
ComponentName: Edge.Server
ComponentVersion: "1.0.0"
ComponentConfiguration:
  DefaultConfiguration: {captureShare: "0", tcp: "", logLevel: ""}
Manifests:
  - Platform: {os: linux, runtime: "*"}
    Lifecycle:
      run: exec sleep 600
"""
OTHER = RECIPE.replace("Edge.Server", "Edge.Other")


@pytest.fixture
def deployed(server: Any, short: Path) -> Callable[[HostedCore], Any]:
    """The server as the component NAME of a core device."""

    def start(core: HostedCore) -> Any:
        assert core.deploy(RECIPE).succeeded
        server.arguments = ["--configuration", "--spool", str(short / "spool"), "--live-share", "0"]
        return server.start(**core.environment(NAME))

    return start


def change(core: HostedCore, **settings: object) -> None:
    client = core.client(NAME)
    try:
        client.update_configuration(key_path=[], value_to_merge=settings)
    finally:
        client.close()


def test_what_can_change_does_so_without_a_restart_and_nonsense_changes_nothing(
    both_cores: HostedCore,  # noqa: F811
    deployed: Callable[[HostedCore], Any],
    packages: Callable,
    kit: ModuleType,
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = deployed(both_cores)
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(server.runtime))
    pid = server.endpoint.pid

    def settings() -> dict[str, Any]:
        return server.say(verb="status")["settings"]

    def captured() -> int:
        with Client(server.endpoint.inference, retry=False) as client:
            client.infer("watch", {"window": kit.window()})
        return int(server.say(verb="status")["capture"].get("captured", 0))

    assert server.hand_over(packages("1.0.0", 1.0).handover(1))["state"] == "ACTIVE"
    assert (captured(), server.endpoint.spool) == (0, "")
    assert settings()["live"]["runSeconds"] == 10.0
    change(both_cores, captureShare="1.00", liveShare=1, runSeconds="3", pulseSeconds=30, tcp="127.0.0.1:0")
    wait_for(lambda: settings()["live"]["captureShare"] == 1.0)
    wait_for(lambda: captured() > 0)
    assert server.endpoint.spool == server.say(verb="status")["server"]["spool"] != ""
    now = settings()
    assert (now["followed"], now["refused"], now["waiting"]) == (True, "", ["tcp"])
    assert (now["live"]["runSeconds"], now["live"]["pulseSeconds"]) == (3.0, 30.0)
    assert now["live"]["liveShare"] == 0.0, "a flag wins over the deployment"
    change(both_cores, captureShare="7", runSeconds="4", tcp="")
    wait_for(lambda: settings()["refused"] != "")
    assert main(["status"]) == 0
    said = capsys.readouterr().out
    assert "hold from the next start: tcp" in said
    assert "configuration is refused: captureShare is '7'" in said
    now = settings()
    assert "captureShare is '7'" in now["refused"]
    assert (now["live"]["captureShare"], now["live"]["runSeconds"]) == (1.0, 3.0)
    if both_cores.mode == "classic":
        refused = both_cores.deploy(RECIPE, merge={NAME: {"captureShare": "8"}})
        assert not refused.succeeded
        assert "captureShare is '8'" in refused.reason
    change(both_cores, captureShare="0", logLevel="error")
    wait_for(lambda: settings()["live"]["captureShare"] == 0.0)
    now = settings()
    assert (now["refused"], now["waiting"], now["live"]["logLevel"]) == ("", [], "error")
    assert (server.endpoint.pid, server.stop()) == (pid, 0)
    assert "Settings changed: " in server.said
    assert "captureShare is 1.0" in server.said
    assert "hold from the next start: tcp" in server.said
    assert "The new configuration is refused" in server.said
    assert "liveShare" not in server.said


def test_an_update_waits_until_the_calls_of_a_server_that_stops_have_ended(
    core_device: Callable[..., HostedCore],  # noqa: F811
    deployed: Callable[[HostedCore], Any],
    packages: Callable,
    kit: ModuleType,
    wait_for: Callable[..., None],
) -> None:
    core = core_device("classic")
    server = deployed(core)
    change(core, runSeconds="3")
    wait_for(lambda: server.say(verb="status")["settings"]["live"]["runSeconds"] == 3.0)
    graph = looping(1.0, kit.CHANNELS, above=5.0)
    answer = server.hand_over(packages("1.0.0", 1.0, graph=graph, change=with_loop).handover(1))
    assert answer["state"] == "ACTIVE", answer
    errors: list[str] = []

    def ask() -> None:
        endless = numpy.full((1, kit.STEPS, kit.CHANNELS), 9, numpy.float32)
        with Client(server.endpoint.inference, retry=False) as client, pytest.raises(HybridgeError) as raised:
            client.infer("watch", {"window": endless}, timeout_s=30)
        errors.append(str(raised.value))

    thread = Thread(target=ask)
    thread.start()
    wait_for(lambda: runs(server.store))
    server.process.terminate()
    wait_for(lambda: "No model" not in refused(server))
    assert runs(server.store)
    assert core.deploy(OTHER).succeeded
    assert not runs(server.store), "the update came while a call was still answered"
    thread.join()
    assert "was stopped after 3 s" in errors[0]  # its run, which the server ends
    assert server.stop() == 0


def runs(store: Path) -> bool:
    """Whether a model is loaded or runs, as its server's table says."""
    table = (store / trials.TABLE).read_bytes()[trials._HEAD.size :]
    return any(inside for _, inside, _ in trials._SLOT.iter_unpack(table))


def refused(server: Any) -> str:
    """What a new call is told."""
    try:
        with Client(server.endpoint.inference, retry=False) as client:
            client.infer("none", {})
    except HybridgeError as error:
        return str(error)
    return ""


def settings_of(**changed: object) -> ServeSettings:
    return Source(dict(changed)).settings({})


def test_the_supervisor_is_told_once_after_each_change_and_not_of_an_earlier_life(short: Path) -> None:
    (short / FILE).write_bytes(settings_of(runSeconds=7).to_json())
    told = Told(short)
    assert told.news() is None
    applied: list[ServeSettings] = []
    live = LiveSettings(settings_of(), Source({"runSeconds": "4"}, True), applied.append, short)
    live.configured({"pulseSeconds": "9", "runSeconds": "5", "threads": "2"})
    heard = told.news()
    assert heard == applied[0]
    assert (heard.pulse_seconds, heard.run_seconds, heard.threads) == (9.0, 4.0, 0)
    assert told.news() is None
    live.configured({"pulseSeconds": "9", "threads": "1e9"})
    assert (len(applied), told.news()) == (1, None)
    live.close()
    live.configured({"pulseSeconds": "3"})
    assert len(applied) == 1
    (short / FILE).write_bytes(b"{")
    assert told.news() is None


def test_a_source_survives_its_way_to_the_worker() -> None:
    source = Source({"captureShare": 0.25, "tcp": "127.0.0.1:0", "threads": 3}, True)
    there = Source.from_json(source.to_json())
    assert there.deployed
    assert there.settings({"threads": "9", "logLevel": "debug"}) == source.settings({"threads": 9, "logLevel": "debug"})
