"""A shadow over a real server: its crash, its page and its commands; the room it needs, and the lull it runs in."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge import cli
from hybridge_edge.admission.plan import Held, plan, plan_shadow
from hybridge_edge.client import Client
from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.errors import ModelNotFound, PackageRefused
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.runner import Interrupted

ROOT = Path(__file__).resolve().parents[3]
SHUFFLED = (1, 2, 0)
PATIENCE_S = 20.0


def test_a_shadow_the_server_died_of_once_does_not_come_back_and_the_active_one_is_not_blamed(
    server: Any, packages: Callable, kit: ModuleType
) -> None:
    """Over a real server: its worker is killed while the shadow alone is marked, as a crash in its run would."""
    server.start()
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 1.0)
    server.hand_over(one.handover(1))
    pid = server.endpoint.pid
    with Client(server.endpoint.inference) as client:
        for _ in range(25):  # the active one is trusted then
            client.infer("watch", {"window": kit.window()})
    assert server.hand_over(two.handover(2, Mode.SHADOW))["state"] == "SHADOW"
    mark(server.store, two.digest)
    subprocess.run(["kill", "-9", str(pid)], check=True)
    server.wait(not_pid=pid)
    until = time.monotonic() + PATIENCE_S
    while (found := {item["version"]: item for item in server.say(verb="status")["models"]}).keys() != {
        "1.0.0",
        "1.1.0",
    }:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    assert {name: item["state"] for name, item in found.items()} == {"1.0.0": "ACTIVE", "1.1.0": "QUARANTINED"}
    assert "The server died once" in found["1.1.0"]["reason"]
    with Client(server.endpoint.inference) as client:
        assert client.infer("watch", {"window": kit.window()}).version == "1.0.0"
    assert server.stop() == 0


def mark(store: Path, digest: str) -> None:
    """What the table of ``trials`` says while a digest runs."""
    name = bytes.fromhex(digest.removeprefix("sha256:"))
    with (store / "running").open("r+b") as file:
        at = file.read().index(name) + 32
        file.seek(at)
        file.write((1).to_bytes(4, "little"))


def test_a_served_shadow_in_metrics_status_and_on_the_command_line(
    server: Any, packages: Callable, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(server.runtime))
    monkeypatch.delenv("HYBRIDGE_ENDPOINT", raising=False)
    server.arguments += ["--metrics", "127.0.0.1:0", "--shadow-share", "1"]
    server.start()
    server.hand_over(packages("1.0.0", 1.0).handover(1))
    two = packages("1.1.0", 1.0, order=SHUFFLED)
    assert cli.main(["activate", str(two.folder), "--mode", "shadow", "--rollout", "r-2"]) == 0
    assert "1.1.0 is SHADOW at epoch 2" in capsys.readouterr().out
    with Client(server.endpoint.inference) as client:
        for seed in range(8):
            assert client.infer("watch", {"window": kit.window(2, seed=seed)}).version == "1.0.0"
            time.sleep(0.01)
        with pytest.raises(ModelNotFound):
            client.infer("watch", {"window": kit.window()}, version="1.1.0")
    until = time.monotonic() + PATIENCE_S
    while server.say(verb="shadow", model="watch")["evidence"].get("live") != 16 and time.monotonic() < until:
        time.sleep(0.05)

    def said(*words: str) -> str:
        assert cli.main(words) == 0, words
        return capsys.readouterr().out

    assert "16 rows, 16 disagree (100.0%); 0 of 8 runs failed" in said("shadow", "watch")
    assert "beside it: 16 rows, 16 disagree" in said("status")
    assert "shadow 1.1.0" in said("list")
    assert json.loads(said("shadow", "watch", "--json"))["dropped"]["queue-full"] == 0
    address = server.say(verb="status")["server"]["metrics"]
    page = subprocess.run(
        [sys.executable, "-c", f"import urllib.request as u; print(u.urlopen('http://{address}/metrics').read().decode())"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    labels = '{model="watch",version="1.1.0",against="1.0.0"}'
    assert f"hybridge_shadow_compared_total{labels} 16" in page
    assert f"hybridge_shadow_disagreed_total{labels} 16" in page
    assert 'hybridge_model_state{model="watch",version="1.1.0",state="SHADOW"} 1' in page
    assert server.say(verb="shadow", model="nobody")["error"] == "NOT_FOUND"
    component = server.store.parent / "component"  # as its artifact lies on a core device
    shutil.copytree(two.folder, component / "package")
    shutil.copy(ROOT / "components" / "model" / "activate.py", component)
    for epoch, mode, state in ((3, "shadow", "SHADOW"), (4, "activate", "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-I", str(component / "activate.py"), "--epoch", str(epoch), "--mode", mode],
            env={"HYBRIDGE_RUNTIME_DIR": str(server.runtime)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.startswith(f"activate: {state}: watch 1.1.0")) == (0, True), done.stdout
    with Client(server.endpoint.inference) as client:
        assert client.infer("watch", {"window": kit.window()}).version == "1.1.0"
    assert "has no shadow" in said("shadow", "watch")
    assert server.stop() == 0


HELD = (Held("watch", "1.0.0", 100, True), Held("watch", "0.9.0", 100, False), Held("other", "2.0.0", 50, True))


def test_a_shadow_needs_room_beside_all_that_answers_and_versions_before_make_it() -> None:
    assert plan_shadow("watch", 100, Budgets(), HELD, 0) == ()
    assert plan_shadow("watch", 100, Budgets(), HELD, 350) == ()
    assert plan_shadow("watch", 100, Budgets(), HELD, 349) == ("watch",)
    with pytest.raises(PackageRefused, match="As a shadow the package takes 100 MB beside the 150 MB") as refused:
        plan_shadow("watch", 100, Budgets(), HELD, 249)
    assert refused.value.step == "budget"
    with pytest.raises(PackageRefused, match="its own budget is 90 MB"):
        plan_shadow("watch", 100, Budgets(memory_megabytes=90), HELD, 0)


def test_a_shadow_is_the_first_to_go_where_another_model_needs_room() -> None:
    held = (*HELD[:2], Held("watch", "1.1.0", 100, False, shadow=True))
    fits = plan("other", 50, Budgets(), held, 350)
    assert (fits.end_shadows, fits.let_go, fits.megabytes) == ((), (), 350)
    tight = plan("other", 50, Budgets(), held, 349)
    assert (tight.end_shadows, tight.let_go, tight.megabytes) == (("watch",), (), 250)


def test_the_gate_lends_a_lull_to_one_and_whoever_comes_interrupts_it() -> None:
    gate = Gate(1)
    calls: list[str] = []
    assert not gate.begin_in_lull(60.0, lambda: calls.append("too early"))
    assert gate.begin_in_lull(0.0, lambda: calls.append("interrupted"))
    with gate.enter(0.1):  # the only place is free all the same
        assert calls == ["interrupted"]
        assert not gate.begin_in_lull(0.0, lambda: calls.append("inside"))
    gate.end_in_lull()
    with gate.enter(0.1):
        assert calls == ["interrupted"]


def test_an_attempt_that_finds_no_lull_forgives_no_run_that_took_too_long(
    device: Any, packages: Callable, kit: ModuleType
) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.activation.hand_over(packages("1.1.0", 1.0).handover(2, Mode.SHADOW))
    shadow, runner = device.service.residents.shadow("watch"), device.service.runner
    shadow.overruns = 2
    with pytest.raises(Interrupted):
        runner.in_lull(shadow, {"window": kit.window()}, lull_s=3600.0)
    assert shadow.overruns == 2
    runner.in_lull(shadow, {"window": kit.window()}, lull_s=0.0)
    assert shadow.overruns == 0


def test_a_model_with_states_has_no_shadow(device: Any, kit: ModuleType, tmp_path: Path) -> None:
    one, two = (kit.build_counter(tmp_path / version, version) for version in ("1.0.0", "1.1.0"))
    assert device.activation.hand_over(one.handover(1)).state is PackageState.ACTIVE
    refused = device.activation.hand_over(two.handover(2, Mode.SHADOW))
    assert refused.state is PackageState.REFUSED
    assert "keeps states between requests" in refused.reason
