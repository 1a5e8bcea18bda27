"""A rollout's shadow stage: live rows judge where there are enough, else the probe set, and the verdict says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.cli import rollout_table
from hybridge_cloud.deploy import Target
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.rollout import commands
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.controller import Controller
from hybridge_cloud.rollout.decide import decide
from hybridge_cloud.rollout.lease import wall_clock
from hybridge_cloud.rollout.plan import Limits, Plan, read_limits
from hybridge_cloud.rollout.prepare import prepare
from hybridge_cloud.rollout.record import Record
from hybridge_cloud.rollout.shadow_gates import BY_LIVE, BY_LIVE_PAIRS, BY_SCORES, judge, stood_in
from hybridge_cloud.rollout.shadow_stage import ShadowStage
from hybridge_cloud.rollout.simulate import BEFORE, GOOD, SIMULATED_LIMITS, Scenario, Simulation
from hybridge_cloud.rollout.simulated_device import Weather
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.state import State, Status, WaveStatus
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.errors import InvalidDocument, UsageError
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.report import Evidence
from hybridge_edge.contract.states import Mode

PASS, FAIL, HOLD = Outcome.PASS, Outcome.FAIL, Outcome.HOLD
STAGE = ShadowStage(minimum_requests=200, wait_seconds=600)
LIMITS = replace(SIMULATED_LIMITS, shadow=ShadowStage(minimum_requests=100, wait_seconds=1200))
"""A simulated device answers two requests a second, of which a shadow sees a fifth."""
SEEN = Evidence(
    against=BEFORE.digest, requests=300, probes=128, probes_disagreed=4, probes_slower=6, live=300, live_disagreed=9,
    live_timed=150, live_slower=8, live_us=900, live_us_before=890, score_shift=40,
)  # fmt: skip
ROUGH = Weather(lost=0.3, doubled=0.3, late=0.3)
random = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)


@pytest.fixture
def plan() -> Plan:
    return Simulation(Scenario(limits=replace(LIMITS, shadow=STAGE)), 0).plan


def _verdicts(
    plan: Plan, *evidence: Evidence | None, late: bool = False, waited: bool = False
) -> dict[Gate, GateVerdict]:
    standings = [Standing(f"d{index}", End.DONE, "2.0.0 is SHADOW", seen) for index, seen in enumerate(evidence)]
    verdicts = judge(plan, standings, late, waited)
    assert [verdict.gate for verdict in verdicts] == list(Gate)
    return {verdict.gate: verdict for verdict in verdicts}


def test_enough_live_rows_judge_in_place_of_the_probe_set(plan: Plan) -> None:
    bad_probes = replace(SEEN, probes_disagreed=120, probes_slower=120)
    found = _verdicts(plan, bad_probes)
    assert {verdict.outcome for verdict in found.values()} == {PASS}
    assert found[Gate.LIVE].test == BY_LIVE
    assert found[Gate.LATENCY].test == BY_LIVE_PAIRS
    assert found[Gate.PROBES].reason == "live requests judge in its place"
    for gate in (Gate.PROBES, Gate.LATENCY):
        stood = stood_in(tuple(found.values()), gate)
        assert stood is not None
        assert "by live requests in place of the probe set" in stood.reason


@pytest.mark.parametrize(
    ("changed", "gate", "outcome", "said"),
    [
        ({"live_disagreed": 220}, Gate.LIVE, FAIL, "220 of 300 rows (73.3 %), at most 4.8 % + 5.0 % expected"),
        ({"live": 40, "live_disagreed": 30}, Gate.LIVE, FAIL, "30 of 40 rows"),
        ({"live_disagreed": 31}, Gate.LIVE, HOLD, "too few to be sure"),
        ({"live": 199}, Gate.LIVE, HOLD, "199 of 200 live rows on 1 of 1 devices"),
        ({"live": 199}, Gate.PROBES, HOLD, "live requests come first"),
        ({"live_slower": 140}, Gate.LATENCY, FAIL, "140 of 150 live pairs of runs took more than 1.5 times"),
        ({"live_timed": 19, "live_slower": 0}, Gate.LATENCY, HOLD, "20 are needed"),
        ({"errors": 60}, Gate.ERRORS, FAIL, "60 of 300 runs failed"),
        ({"guarded": 300}, Gate.GUARDS, FAIL, "300 of 300 answers broke a guard"),
        ({"score_shift": 900}, Gate.SCORES, FAIL, "d0: 0.900 apart over 300 rows, at most 0.5 allowed"),
        ({"score_shift": 550}, Gate.SCORES, HOLD, "too few to be sure"),
        ({"requests": 0, "live": 0, "live_disagreed": 0}, Gate.ERRORS, HOLD, "20 are needed"),
        ({"against": "sha256:" + "9" * 64}, Gate.LIVE, HOLD, "0 of 200 live rows on 0 of 1 devices"),
    ],
)
def test_each_gate_finds_what_it_is_for(
    plan: Plan, changed: dict[str, Any], gate: Gate, outcome: Outcome, said: str
) -> None:
    found = _verdicts(plan, replace(SEEN, **changed))[gate]
    assert (found.outcome, said in found.reason) == (outcome, True), found.reason
    late = _verdicts(plan, replace(SEEN, **changed), late=True)[gate]
    assert late.outcome is (FAIL if outcome is HOLD else outcome)


def test_with_too_few_live_rows_the_probe_set_stands_in_and_the_verdict_says_so(plan: Plan) -> None:
    few = replace(SEEN, requests=10, live=10, live_disagreed=0, live_timed=5, live_slower=0)
    found = _verdicts(plan, few, waited=True)
    assert {verdict.outcome for verdict in found.values()} == {PASS}
    assert found[Gate.PROBES].test == "exact binomial"
    assert found[Gate.PROBES].reason.startswith("the probe set stands in for live requests (10 of 200 live rows")
    assert found[Gate.LATENCY].reason.startswith("the probe set stands in for 5 of 20 live pairs")
    assert found[Gate.LIVE].reason.endswith("too few, the probe set stands in")
    assert stood_in(tuple(found.values()), Gate.PROBES) is stood_in(tuple(found.values()), Gate.LATENCY) is None
    bad = _verdicts(plan, replace(few, probes_disagreed=93), waited=True)
    assert bad[Gate.PROBES].outcome is FAIL
    slow = _verdicts(plan, replace(few, probes_slower=128), waited=True)
    assert slow[Gate.LATENCY].outcome is FAIL
    neither = _verdicts(plan, replace(few, probes=0, probes_disagreed=0, probes_slower=0), waited=True)
    assert neither[Gate.PROBES].outcome is neither[Gate.LATENCY].outcome is HOLD
    nothing = _verdicts(plan, None, waited=True)
    assert nothing[Gate.PROBES].outcome is nothing[Gate.LATENCY].outcome is HOLD


def test_live_rows_of_too_few_devices_are_not_enough(plan: Plan) -> None:
    quiet = replace(SEEN, requests=0, live=0, live_disagreed=0, live_timed=0, live_slower=0, score_shift=0)
    assert _verdicts(plan, SEEN, quiet)[Gate.LIVE].outcome is PASS
    assert _verdicts(plan, SEEN, quiet, quiet)[Gate.LIVE].outcome is HOLD


def test_a_package_that_was_not_compared_at_evaluation_cannot_be_judged_by_live_rows_either(plan: Plan) -> None:
    for comparison in (None, Comparison("sha256:" + "9" * 64, 400, 12)):
        found = _verdicts(replace(plan, comparison=comparison), SEEN)
        assert found[Gate.LIVE].outcome is HOLD
        assert found[Gate.LIVE].reason.startswith("cannot be judged")


def test_one_device_whose_scores_shift_among_many_is_named(plan: Plan) -> None:
    found = _verdicts(plan, *[SEEN] * 4, replace(SEEN, score_shift=990))[Gate.SCORES]
    assert (found.outcome, found.test, found.reason.split(":")[0]) == (FAIL, BY_SCORES, "d4")


def test_each_ring_stands_beside_and_then_answers() -> None:
    simulation = Simulation(Scenario(limits=LIMITS, weather=Weather()), 1)
    state = simulation.run()
    assert state.status is Status.SUCCEEDED, state.reason
    assert {device.version for device in simulation.devices} == {"2.0.0"}
    for ring in simulation.revisions:
        assert [(one.version, one.epoch, one.mode) for one in ring] == [
            ("1.0.0", 3, "activate"), ("2.0.0", 9, "shadow"), ("2.0.0", 10, "activate"),
        ]  # fmt: skip
    said = [line for line in simulation.audit if "shadow stage passed" in line]
    assert len(said) == 3
    assert all("by live requests: " in line for line in said)
    for wave in state.waves:
        assert {verdict.gate for verdict in wave.shadowed} == set(Gate)
        probes = next(verdict for verdict in wave.verdicts if verdict.gate is Gate.PROBES)
        assert probes.reason.startswith("judged as a shadow, by live requests in place of the probe set")
    assert State.from_bytes(state.to_bytes()) == state


def test_without_traffic_the_probe_set_judges_and_the_version_s_first_requests_are_waited_for() -> None:
    limits = replace(LIMITS, deadline_seconds=3600)
    simulation = Simulation(Scenario(limits=limits, weather=Weather(requests=0.0), rings=(1,)), 1)
    state = simulation.run()
    assert any("shadow stage passed, by the probe set: the probe set stands in" in line for line in simulation.audit)
    assert state.status is Status.PUT_BACK  # it answers nobody: errors cannot be judged, and silence never passes
    assert "errors: not judged" in state.reason


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "model",
    [
        replace(GOOD, disagreement=0.75),
        replace(GOOD, slower=0.99),
        replace(GOOD, guard_rate=1.0),
        replace(GOOD, error_rate=0.3),
        replace(GOOD, score_shift=0.95),
        replace(GOOD, refuses=True),
        replace(GOOD, kills=True),
    ],
    ids=["shuffled", "slow", "NaN", "failing", "shifted", "refused", "kills"],
)
def test_a_bad_version_never_answers_anybody(model: Any, seed: int) -> None:
    simulation = Simulation(Scenario(model, limits=LIMITS, weather=ROUGH), seed)
    state = simulation.run()
    assert state.status is Status.PUT_BACK, state.reason
    assert simulation.reached("2.0.0") == {0}
    assert all(device.history == [("1.0.0", 3)] for device in simulation.devices)
    listed = {item.thing for item in state.exceptions}
    assert all(device.shadow is None for device in simulation.devices if device.thing not in listed)


@given(st.integers(0, 2**32 - 1), st.integers(0, 90), st.booleans())
@random
def test_an_abort_at_any_tick_ends_every_shadow(seed: int, tick: int, reckless: bool) -> None:
    note(f"seed {seed}")
    scenario = Scenario(limits=LIMITS, weather=ROUGH, controllers=2, crash=0.05, reckless=reckless)
    simulation = Simulation(scenario, seed)
    for _ in range(tick):
        simulation.step()
    if simulation.state.is_over:
        return
    simulation.operate(lambda state: commands.abort(simulation.plan, state, simulation.now_ms))
    simulation.run()
    for _ in range(20):  # slow writers wake up
        simulation.step()
    listed = {item.thing for item in simulation.state.exceptions}
    for device in simulation.devices:
        if device.thing not in listed:
            assert (device.version, device.shadow) == ("1.0.0", None)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@random
def test_controllers_that_crash_write_each_stage_of_each_ring_once(seed: int, controllers: int) -> None:
    scenario = Scenario(limits=LIMITS, weather=ROUGH, controllers=controllers, crash=0.05)
    simulation = Simulation(scenario, seed)
    state = simulation.run()  # raises Broken where a stage is written twice, too early, or while paused
    if state.status is Status.SUCCEEDED:
        assert all([one.mode for one in ring] == ["activate", "shadow", "activate"] for ring in simulation.revisions)


def test_a_pause_withdraws_a_shadow_stage_and_a_resume_writes_it_again() -> None:
    simulation = Simulation(Scenario(limits=LIMITS), 3)
    simulation.run(lambda now: bool(now.state.waves[0].deployment))
    assert simulation.state.waves[0].mode is Mode.SHADOW
    simulation.operate(lambda state: commands.pause(state, simulation.now_ms))
    simulation.run(lambda now: now.revisions[0][-1].cancelled)
    simulation.operate(lambda state: commands.resume(state, simulation.now_ms))
    assert simulation.run().status is Status.SUCCEEDED


def test_only_the_rings_that_are_named_have_the_stage_and_a_first_version_has_none() -> None:
    only = replace(LIMITS, shadow=replace(STAGE, rings=(0,)))
    simulation = Simulation(Scenario(limits=only), 2)
    assert simulation.run().status is Status.SUCCEEDED
    assert [[one.mode for one in ring][1:] for ring in simulation.revisions] == [
        ["shadow", "activate"], ["activate"], ["activate"],
    ]  # fmt: skip
    assert simulation.state.waves[1].shadowed == ()
    first = Simulation(Scenario(limits=LIMITS, first=True), 2)
    first.run(lambda now: bool(now.state.waves[0].deployment))
    assert first.revisions[0][-1].mode == "activate"


def test_a_rollout_started_without_an_epoch_for_its_stage_does_not_skip_it() -> None:
    simulation = Simulation(Scenario(limits=LIMITS), 0)
    with pytest.raises(InvalidDocument, match="without an epoch"):
        decide(simulation.plan, replace(simulation.state, shadow_epoch=0), simulation.observe(), simulation.now_ms)


def test_the_stage_is_written_in_the_yaml_and_what_is_wrong_is_named(tmp_path: Path, plan: Plan) -> None:
    path = tmp_path / "rollout.yaml"
    path.write_text("shadow: {}\n")
    assert read_limits(path) == Limits(shadow=ShadowStage())
    path.write_text("shadow:\n  rings: [0, 1]\n  minimum_requests: 500\n  share: 0.8\n  score_shift: 1\n")
    assert read_limits(path).shadow == ShadowStage((0, 1), 500, 0.8, 1800, 1.0)
    assert Plan.from_bytes(plan.to_bytes()) == plan
    for text, said in {
        "shadow: true": "'shadow'",
        "shadow: {share: 0}": "'shadow.share'",
        "shadow: {minimum_requests: 0}": "silence never passes",
        "shadow: {rings: [4]}": "'shadow.rings'",
        "shadow: {score_shift: 2}": "'shadow.score_shift'",
        "shadow: {wait_seconds: 7200}": "'shadow.wait_seconds'",
        "shadow: {minimum_rows: 2}": "minimum_rows",
    }.items():
        path.write_text(text)
        with pytest.raises(InvalidDocument, match=said.replace(".", r"\.")):
            read_limits(path)


def begin(record: Record, bucket: Bucket) -> Record:
    fleet = record.plan.fleet
    rollouts.claim(bucket, record)
    beside, first, second = (fleet_record.next_epoch(bucket, fleet) for _ in range(3))
    return rollouts.change(
        bucket, record, lambda found: commands.start(found.state, first, second, wall_clock(), beside)
    )[1]


def drive(fleet: Any, record: Record) -> Record:
    controller = Controller(fleet.bucket, fleet.name, record.plan.id)
    for _ in range(40):
        record = controller.turn().record
        if record.state.is_over:
            return record
        fleet.turn()
    raise AssertionError(f"not over: {record.state}")


def _quick(fleet: Any, **stage: Any) -> Limits:
    return replace(fleet.limits, shadow=ShadowStage(**{"wait_seconds": 0, **stage}))


def test_over_a_real_account_each_ring_is_written_twice_and_live_rows_judge(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0, 1)
    done = drive(fleet, begin(fleet.plan("2.0.0", limits=_quick(fleet)), fleet.bucket))
    assert done.state.status is Status.SUCCEEDED, done.state.reason
    assert [device.reports["toy"].version for device in fleet.devices] == ["2.0.0", "2.0.0"]
    assert [len(fleet.deployments(ring)) for ring in (0, 1)] == [3, 3]
    asked = json.loads(fleet.latest(0).components["hybridge.model.toy"].merge)["hybridge"]
    assert (asked["mode"], asked["epoch"]) == ("activate", str(done.state.epoch))
    said = list(rollout_table.lines(done))
    assert any(line.startswith("  as a shadow PASS disagreement on live requests: 4 of 400 rows") for line in said)
    told = [line for entry in rollouts.audit(fleet.bucket, fleet.name, done.plan.id) for line in entry.lines]
    assert sum("shadow stage passed, by live requests" in line for line in told) == 2


@pytest.mark.parametrize(("rows", "gate"), [(400, "live requests"), (10, "probes")])
def test_over_a_real_account_a_bad_version_is_put_back_before_it_answers(
    rows: int, gate: str, make_fleet: Callable[..., Any]
) -> None:
    fleet = make_fleet(0)
    fleet.devices[0].live_rows = rows
    done = drive(fleet, begin(fleet.plan("3.0.0", limits=_quick(fleet)), fleet.bucket))
    assert (done.state.status, f"disagreement on {gate}: " in done.state.reason) == (Status.PUT_BACK, True)
    assert done.state.waves[0].status is WaveStatus.PUT_BACK
    assert fleet.devices[0].reports["toy"].version == "1.0.0"
    assert "toy beside" not in fleet.devices[0].reports
    assert len(fleet.deployments(0)) == 3


def test_a_component_has_no_shadow(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0)
    target = Target.parse("InferenceServer@1.0.0")
    with pytest.raises(UsageError, match="cannot stand beside"):
        prepare(fleet.bucket, fleet.name, target, Limits(shadow=ShadowStage()), 0)
