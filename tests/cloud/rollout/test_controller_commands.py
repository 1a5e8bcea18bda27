"""``hybridge rollout``: every verb over a real account, what it prints, and what it refuses."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud import cli
from hybridge_cloud.aws import greengrass, iot, session
from hybridge_cloud.cli import rollout_table
from hybridge_cloud.rollout import commands, look, prepare
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.controller import Controller
from hybridge_cloud.rollout.plan import Limits
from hybridge_cloud.rollout.state import planned
from hybridge_edge.contract.errors import Conflict

LIMITS = "bake_seconds: 0\nminimum_requests: 50\nreport_seconds: 600\ndeadline_seconds: 600\n"


@pytest.fixture
def hybridge(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs ``hybridge WORDS...`` in this process: its exit code, what it printed, and what it said of errors."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["hybridge", *map(str, words)])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def limits(tmp_path: Path) -> Path:
    path = tmp_path / "rollout.yaml"
    path.write_text(LIMITS)
    return path


def test_start_watch_drives_a_good_version_to_the_end(hybridge: Any, make_fleet: Any, busy: Any, limits: Path) -> None:
    fleet = make_fleet(0, 1)
    busy(fleet)
    words = ("rollout", "start", "toy@2.0.0", "--fleet", fleet.name, "-f", limits, "--watch", "--poll", "0.2")
    code, out, err = hybridge(*words)
    assert (code, err) == (0, "")
    assert "ring 0: PASS disagreement on probes: " in out
    assert re.search(r"toy-2\.0\.0-1: toy 2\.0\.0 on \S+ is SUCCEEDED", out)

    code, out, _ = hybridge("rollout", "show", "toy@2.0.0", "--fleet", fleet.name, "--json")
    shown = json.loads(out)
    assert shown["state"]["status"] == "SUCCEEDED"
    assert shown["plan"]["comparison"] == {"against": shown["plan"]["previous_digest"], "rows": 1000, "disagreed": 12}
    assert shown["plan"]["limits"]["minimum_requests"] == 50
    assert [entry["number"] for entry in shown["audit"]] == list(range(1, len(shown["audit"]) + 1))

    code, _, err = hybridge("rollout", "start", "toy@2.0.0", "--fleet", fleet.name)
    assert (code, "runs toy 2.0.0 already" in err) == (1, True)
    code, _, err = hybridge("rollout", "abort", "toy@2.0.0", "--fleet", fleet.name)
    assert (code, "rollback" in err) == (1, True)

    code, out, _ = hybridge("rollout", "rollback", "toy@2.0.0", "--fleet", fleet.name)
    assert code == 0
    assert "Nothing moves unless a controller runs" in out
    code, out, err = hybridge("rollout", "watch", "toy@2.0.0", "--fleet", fleet.name, "--poll", "0.2")
    assert code == 1
    assert "ended as PUT_BACK: rolled back by an operator" in err
    assert {device.reports["toy"].version for device in fleet.devices} == {"1.0.0"}


def test_start_watch_of_a_bad_version_ends_with_1_and_why_tells_the_numbers(
    hybridge: Any, make_fleet: Any, busy: Any, limits: Path
) -> None:
    fleet = make_fleet(0, 1)
    busy(fleet)
    words = ("rollout", "start", "toy@3.0.0", "--fleet", fleet.name, "-f", limits, "--watch", "--poll", "0.2", "--json")
    code, out, err = hybridge(*words)
    assert code == 1
    assert "ended as PUT_BACK" in err
    seen = [json.loads(line)["state"]["status"] for line in out.splitlines()]
    assert list(dict.fromkeys(seen)) == ["RUNNING", "PUTTING_BACK", "PUT_BACK"]
    code, out, _ = hybridge("rollout", "why", "toy@3.0.0", "--fleet", fleet.name)
    assert code == 0
    assert re.search(r"ring 0: FAIL disagreement on probes \(.*\): .*180 of 256", out)
    assert "PUTTING_BACK -> PUT_BACK" in out
    code, out, _ = hybridge("rollout", "list", "--fleet", fleet.name)
    assert (code, out.count("\n"), "is PUT_BACK" in out) == (0, 1, True)


def test_a_planned_rollout_is_begun_paused_resumed_approved_and_aborted(
    hybridge: Any, make_fleet: Any, limits: Path
) -> None:
    fleet = make_fleet(0, 1)
    limits.write_text(LIMITS + "approve: [1]\n")

    def status(*words: str) -> str:
        code, out, err = hybridge("rollout", *words, "--fleet", fleet.name, "--json")
        assert code == 0, err
        found: str = json.loads(out)["state"]["status"]
        return found

    assert status("plan", "toy@2.0.0", "-f", str(limits)) == "PLANNED"
    assert len(fleet.deployments(0)) == 1
    assert status("start", "toy-2.0.0-1") == "RUNNING"
    assert status("pause", "toy-2.0.0-1") == "PAUSED"
    assert status("resume", "toy-2.0.0-1") == "RUNNING"
    assert status("approve", "toy-2.0.0-1", "--ring", "1") == "RUNNING"
    code, _, err = hybridge("rollout", "advance", "toy-2.0.0-1", "--fleet", fleet.name)
    assert (code, "has no wave that bakes" in err) == (1, True)
    code, _, err = hybridge("rollout", "start", "toy@3.0.0", "--fleet", fleet.name)
    assert (code, "The rollout toy-2.0.0-1 of toy 2.0.0 holds this model" in err) == (1, True)
    code, _, err = hybridge("deploy", "toy@3.0.0", "--fleet", fleet.name)
    assert (code, "toy-2.0.0-1" in err) == (1, True)
    assert status("abort", "toy-2.0.0-1") == "STOPPED"
    assert len(fleet.deployments(0)) == 1
    said = [line for entry in rollouts.audit(fleet.bucket, fleet.name, "toy-2.0.0-1") for line in entry.lines]
    assert [line.partition(" by ")[0] for line in said] == [
        "planned", "started", "paused", "resumed", "approved ring 1", "aborted",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("plan", "toy@9.0.0"), 1, "toy 9.0.0 is not published"),
        (("plan", "toy@1.0.0"), 1, "runs toy 1.0.0 already"),
        (("plan", "InferenceServer@1.0.0"), 1, "runs hybridge.InferenceServer 1.0.0 already"),
        (("plan", "InferenceServer@9.0.0"), 1, "hybridge.InferenceServer 9.0.0 is not published"),
        (("plan", "hybridge.model.toy@2.0.0"), 2, "Roll out the model: toy@2.0.0"),
        (("plan", "toy"), 2, "does not name a version"),
        (("show", "toy@2.0.0"), 1, "has no rollout of toy@2.0.0"),
        (("show", "toy-2.0.0-7"), 1, "has no rollout 'toy-2.0.0-7'"),
        (("show", "../../x"), 1, "is not a valid rollout id"),
        (("plan", "toy@2.0.0", "-f", "/nowhere/rollout.yaml"), 1, "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    words: tuple[str, ...], code: int, said: str, hybridge: Any, small: Any
) -> None:
    ended, out, err = hybridge("rollout", *words, "--fleet", small.name)
    assert (ended, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.fixture(scope="module")
def small(sandbox: Any, make_fleets: Callable[..., Any]) -> Any:
    return make_fleets(0)


def test_a_plan_that_was_outrun_is_not_begun(hybridge: Any, make_fleet: Any) -> None:
    fleet = make_fleet(0)
    assert hybridge("rollout", "plan", "toy@2.0.0", "--fleet", fleet.name)[0] == 0
    assert hybridge("deploy", "toy@3.0.0", "--fleet", fleet.name)[0] == 0
    code, _, err = hybridge("rollout", "start", "toy@2.0.0", "--fleet", fleet.name)
    assert (code, "planned to replace 1.0.0" in err) == (1, True)
    assert rollouts.holder_of(fleet.bucket, fleet.name, "toy") is None


def test_a_rollout_begins_from_a_revision_of_somebody_else_and_says_so(
    hybridge: Any, make_fleet: Any, busy: Any, limits: Path
) -> None:
    fleet = make_fleet(0)
    by_hand = greengrass.create_deployment(fleet.ring(0).arn, "by hand", fleet.latest(0).components)
    busy(fleet)
    words = ("rollout", "start", "toy@2.0.0", "--fleet", fleet.name, "-f", limits, "--watch", "--poll", "0.2")
    assert hybridge(*words)[0] == 0
    assert by_hand in hybridge("rollout", "why", "toy@2.0.0", "--fleet", fleet.name)[1]


def test_a_component_at_two_targets_of_a_device_is_refused_before_anything_is_written(make_fleet: Any) -> None:
    fleet = make_fleet(0)
    group = iot.create_group(f"{fleet.name}-other")
    iot.add_to_group(fleet.devices[0].thing, group.name)
    by_hand = greengrass.create_deployment(group.arn, "by hand", {"hybridge.model.toy": fleet.wanted("1.0.0")})
    for _ in range(100):  # the account looks at memberships only now and then
        fleet.turn()
        if by_hand in fleet.devices[0].taken:
            break
        time.sleep(0.1)
    with pytest.raises(Conflict, match=r"gets hybridge\.model\.toy from .*-other too"):
        prepare.prepare(fleet.bucket, fleet.name, prepare.Target("toy", "2.0.0"), Limits(), 1)


def test_what_a_shadow_holds_is_believed_only_of_its_own_device(make_fleet: Any) -> None:
    fleet = make_fleet(0, 0)
    record = fleet.plan("2.0.0")
    honest, forged = fleet.devices
    document = iot.named_shadow(honest.thing)
    assert document is not None
    reported = json.dumps({"state": {"reported": json.loads(document)["state"]["reported"]}}).encode()
    session.call(
        "iot-data", "update_thing_shadow", thingName=forged.thing, shadowName="hybridge", payload=reported
    )  # fmt: skip
    state = planned(record.plan)
    found = look.observe(fleet.bucket, record.plan, state, "hybridge", 10**14)
    views = [found.view(device.thing) for device in (honest, forged)]
    assert [len(view.reports) for view in views if view] == [1, 0]
    assert [view.online for view in views if view] == [False, False], "what was heard long ago is not online"
    assert found.revisions[0].version == "1.0.0"
    assert found.revisions[1].deployment == ""


def test_the_live_table_shows_every_device_and_every_verdict_on_a_terminal(
    make_fleet: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fleet = make_fleet(0, 1)
    record = rollouts.change(
        fleet.bucket, fleet.plan("2.0.0"), lambda found: commands.start(found.state, 5, 6, 1)
    )[1]  # fmt: skip
    controller = Controller(fleet.bucket, fleet.name, record.plan.id)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with rollout_table.shown(as_json=False) as told:
        for _ in range(3):
            told(controller.turn())
            fleet.turn()
        told(controller.turn())
    shown = capfd.readouterr().out.rpartition("\x1b[2K")[2]
    whole = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert "3 of 256 differ" in whole
    assert all(device.thing in whole for device in fleet.devices)
    assert "PASS disagreement on probes" in whole
