"""The decision and the operator's commands, one look at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridge_cloud.rollout import commands
from hybridge_cloud.rollout.action import Cancel, PutBack, WriteWave, is_wanted, recorded, wanted
from hybridge_cloud.rollout.decide import decide, foreign
from hybridge_cloud.rollout.observation import DeviceView, Observation, Revision
from hybridge_cloud.rollout.plan import Limits, Plan, Wave
from hybridge_cloud.rollout.state import State, Status, WaveState, WaveStatus, planned
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.report import Evidence, ModelReport
from hybridge_edge.contract.states import PackageState

OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
T0 = 1_000_000
LIMITS = Limits(bake_seconds=60, report_seconds=100, deadline_seconds=1000)
BEFORE = Revision("d-before", "1.0.0", "fleet-3", 3)
FORWARD = Revision("d-new", "2.0.0", "fleet-10", 10)
BACK = Revision("d-back", "1.0.0", "fleet-10", 11)
EVIDENCE = Evidence(against=OLD, requests=300, probes=128, probes_disagreed=4, probes_slower=6)


@pytest.fixture
def plan() -> Plan:
    waves = (Wave(0, "fleet-r0", ("a",)), Wave(1, "fleet-r1", ("b", "c")))
    comparison = Comparison(OLD, 400, 12)
    return Plan("fleet-10", "fleet", "watch", "2.0.0", NEW, "1.0.0", OLD, comparison, waves, LIMITS, T0, "somebody")


@pytest.fixture
def running(plan: Plan) -> State:
    """Ring 0 is written, and its deployment is known."""
    state = commands.start(planned(plan), 10, 11, T0)
    state = decide(plan, state, _seen([], BEFORE, BEFORE), T0).state
    return recorded(state, WriteWave(0, "2.0.0", 10), "d-new", T0)


def _report(digest: str, epoch: int, state: str = "ACTIVE", rollout: str = "fleet-10", **more: object) -> ModelReport:
    version = "2.0.0" if digest == NEW else "1.0.0"
    return ModelReport("watch", version, digest, PackageState(state), rollout, epoch, **more)  # type: ignore[arg-type]


def _view(thing: str, ring: int, now: int, *reports: ModelReport, **more: object) -> DeviceView:
    given: dict[str, object] = {"online": True, "last_report_ms": now, "taken": bool(reports), **more}
    return DeviceView(thing, ring, reports=reports, **given)  # type: ignore[arg-type]


def _done(thing: str, ring: int, now: int) -> DeviceView:
    return _view(thing, ring, now, _report(NEW, 10, evidence=EVIDENCE))


def _back(thing: str, ring: int, now: int) -> DeviceView:
    return _view(thing, ring, now, _report(OLD, 11))


def _seen(devices: list[DeviceView], *revisions: Revision) -> Observation:
    return Observation(tuple(devices), dict(enumerate(revisions)))


def test_a_start_writes_the_first_ring_alone(plan: Plan) -> None:
    state = commands.start(planned(plan), 10, 11, T0)
    decision = decide(plan, state, _seen([], BEFORE, BEFORE), T0)
    assert decision.actions == (WriteWave(0, "2.0.0", 10),)
    assert [wave.status for wave in decision.state.waves] == [WaveStatus.WRITTEN, WaveStatus.PENDING]
    assert decision.audit == ("ring 0 is being written with watch@2.0.0 at epoch 10",)


def test_a_planned_rollout_does_nothing(plan: Plan) -> None:
    decision = decide(plan, planned(plan), _seen([], BEFORE, BEFORE), T0)
    assert (decision.state, decision.actions) == (planned(plan), ())


def test_an_intent_without_an_outcome_is_decided_again_until_it_has_one(plan: Plan, running: State) -> None:
    intent = replace(running, waves=(replace(running.waves[0], deployment=""), running.waves[1]))
    again = decide(plan, intent, _seen([], BEFORE, BEFORE), T0 + 1)
    assert again.actions == (WriteWave(0, "2.0.0", 10),)
    found = decide(plan, intent, _seen([], FORWARD, BEFORE), T0 + 1)  # written, and its writer died
    assert (found.actions, found.state.waves[0].deployment) == ((), "d-new")


def test_a_wave_passes_after_its_bake_and_the_next_one_is_written(plan: Plan, running: State) -> None:
    now = T0 + 5_000
    baking = decide(plan, running, _seen([_done("a", 0, now)], FORWARD, BEFORE), now)
    assert baking.actions == ()
    assert baking.state.reason == "ring 0: every gate passes; 60 s of its bake are left"
    now += 60_000
    over = decide(plan, baking.state, _seen([_done("a", 0, now)], FORWARD, BEFORE), now)
    assert over.actions == (WriteWave(1, "2.0.0", 10),)
    assert [wave.status for wave in over.state.waves] == [WaveStatus.PASSED, WaveStatus.WRITTEN]


def test_advance_cuts_the_bake_and_nothing_else(plan: Plan, running: State) -> None:
    now = T0 + 5_000
    advanced = commands.advance(running, now)
    over = decide(plan, advanced, _seen([_done("a", 0, now)], FORWARD, BEFORE), now)
    assert over.state.waves[0].status is WaveStatus.PASSED
    few = _view("a", 0, now, _report(NEW, 10, evidence=replace(EVIDENCE, requests=199)))
    held = decide(plan, advanced, _seen([few], FORWARD, BEFORE), now)
    assert held.state.waves[0].status is WaveStatus.WRITTEN
    assert "199" in held.state.reason
    bad = _view("a", 0, now, _report(NEW, 10, evidence=replace(EVIDENCE, probes_disagreed=90)))
    assert decide(plan, advanced, _seen([bad], FORWARD, BEFORE), now).state.status is Status.PUTTING_BACK


@pytest.mark.parametrize(
    "reports",
    [
        (),
        (_report(NEW, 9, evidence=EVIDENCE),),
        (_report(NEW, 10, rollout="other-10", evidence=EVIDENCE),),
        (_report(NEW, 9, "REFUSED"),),
        (_report(OLD, 10),),
        (_report(OLD, 12, rollout="other-12"),),
        (_report(NEW, 10, "BUILDING"),),
    ],
    ids=["none", "older epoch", "other rollout", "old refusal", "old version", "newer epoch", "building"],
)
def test_only_a_report_of_this_package_rollout_and_epoch_counts(
    plan: Plan, running: State, reports: tuple[ModelReport, ...]
) -> None:
    now = T0 + 500_000
    held = decide(plan, running, _seen([_view("a", 0, now, *reports, taken=True)], FORWARD, BEFORE), now)
    assert (held.state.status, held.actions) == (Status.RUNNING, ())
    assert held.state.waves[0].settled_at_ms == 0
    now = T0 + 1_000_001
    failed = decide(plan, running, _seen([_view("a", 0, now, *reports, taken=True)], FORWARD, BEFORE), now)
    assert failed.state.status is Status.PUTTING_BACK  # silence never passes


def test_a_device_that_ran_it_and_fell_silent_fails_the_wave_at_its_deadline(plan: Plan, running: State) -> None:
    said = _done("a", 0, T0 + 5_000)
    held = decide(plan, running, _seen([said], FORWARD, BEFORE), T0 + 200_000)
    assert "was ACTIVE and said nothing for 195 s" in held.state.reason
    failed = decide(plan, held.state, _seen([replace(said, online=False)], FORWARD, BEFORE), T0 + 1_000_001)
    assert failed.state.status is Status.PUTTING_BACK


def test_a_refusal_puts_back_at_once_with_the_devices_own_reason(plan: Plan, running: State) -> None:
    now = T0 + 5_000
    refused = _view("a", 0, now, _report(OLD, 10), _report(NEW, 10, "REFUSED", reason="golden: 3 rows differ"))
    decision = decide(plan, running, _seen([refused], FORWARD, BEFORE), now)
    assert decision.actions == (PutBack(0, "1.0.0", 11),)
    assert "a 2.0.0 is REFUSED: golden: 3 rows differ" in decision.state.reason
    assert decision.state.detected_at_ms == now


def test_greengrass_word_of_a_failure_counts_too(plan: Plan, running: State) -> None:
    failed = _view("a", 0, T0 + 5_000, failed="FAILED: no disk", taken=True)
    decision = decide(plan, running, _seen([failed], FORWARD, BEFORE), T0 + 5_000)
    assert "Greengrass: FAILED: no disk" in decision.state.reason


@pytest.fixture
def second(plan: Plan, running: State) -> State:
    """Ring 0 passed; ring 1 is written."""
    now = T0 + 5_000
    state = decide(plan, running, _seen([_done("a", 0, now)], FORWARD, BEFORE), now).state
    state = decide(plan, state, _seen([_done("a", 0, now)], FORWARD, BEFORE), now + 60_000).state
    return recorded(state, WriteWave(1, "2.0.0", 10), "d-new-1", now + 60_000)


def test_an_offline_device_is_listed_and_does_not_hold_the_wave(plan: Plan, second: State) -> None:
    forward = (FORWARD, replace(FORWARD, deployment="d-new-1"))
    now = T0 + 65_000 + 101_000
    away = _view("c", 1, 0, online=False, last_report_ms=1)
    state = decide(plan, second, _seen([_done("a", 0, now), _done("b", 1, now), away], *forward), now).state
    assert [item.thing for item in state.exceptions] == ["c"]
    now += 60_000
    over = decide(plan, state, _seen([_done("a", 0, now), _done("b", 1, now), away], *forward), now)
    assert over.state.status is Status.SUCCEEDED
    assert over.state.exceptions[0].why.startswith("is offline: has not taken the deployment")
    returned = decide(plan, over.state, _seen([_done("c", 1, now)], *forward), now + 1)
    assert returned.state.exceptions == ()
    assert returned.audit == ("c has converged",)


def test_a_wave_of_offline_devices_alone_never_passes(plan: Plan, running: State) -> None:
    away = _view("a", 0, 0, online=False, last_report_ms=1)
    held = decide(plan, running, _seen([away], FORWARD, BEFORE), T0 + 900_000)
    assert held.state.status is Status.RUNNING
    failed = decide(plan, running, _seen([away], FORWARD, BEFORE), T0 + 1_000_001)
    assert failed.state.status is Status.PUTTING_BACK
    assert decide(plan, running, _seen([], FORWARD, BEFORE), T0 + 1_000_001).state.status is Status.PUTTING_BACK


def test_a_model_that_turns_bad_in_a_ring_that_passed_puts_every_ring_back(plan: Plan, second: State) -> None:
    now = T0 + 70_000
    bad = _view("a", 0, now, _report(NEW, 10, evidence=replace(EVIDENCE, errors=200)))
    forward = replace(FORWARD, deployment="d-new-1")
    decision = decide(plan, second, _seen([bad, _done("b", 1, now), _done("c", 1, now)], FORWARD, forward), now)
    assert decision.actions == (PutBack(0, "1.0.0", 11), PutBack(1, "1.0.0", 11))
    assert decision.state.reason.startswith("ring 0 failed: errors: 200 of 300 requests failed")


def test_put_back_ends_when_every_device_is_back_or_listed(plan: Plan, second: State) -> None:
    now = T0 + 70_000
    state = commands.abort(plan, second, now)
    for action in wanted(plan, state):
        state = recorded(state, action, f"d-back-{action.ring}", now)
    back = (replace(BACK, deployment="d-back-0"), replace(BACK, deployment="d-back-1"))
    away = _view("c", 1, 0, online=False, last_report_ms=1)
    some = decide(plan, state, _seen([_back("a", 0, now), _done("b", 1, now), away], *back), now + 1).state
    assert (some.status, [item.thing for item in some.exceptions]) == (Status.PUTTING_BACK, ["b", "c"])
    now += 101_000
    over = decide(plan, some, _seen([_back("a", 0, now), _back("b", 1, now), away], *back), now).state
    assert (over.status, over.put_back_at_ms, over.detected_at_ms) == (Status.PUT_BACK, now, T0 + 70_000)
    assert [item.thing for item in over.exceptions] == ["c"]
    assert decide(plan, over, _seen([_back("c", 1, now)], *back), now + 9_000_000).state.exceptions == ()


def test_aborting_again_changes_nothing(plan: Plan, second: State) -> None:
    aborted = commands.abort(plan, second, T0 + 70_000)
    assert commands.abort(plan, aborted, T0 + 80_000) == aborted
    ended = replace(aborted, status=Status.PUT_BACK)
    assert commands.abort(plan, ended, T0 + 80_000) == ended


def test_a_revision_written_late_by_a_sleeper_is_put_back_once_more(plan: Plan, second: State) -> None:
    state = commands.abort(plan, second, T0)
    for action in wanted(plan, state):
        state = recorded(state, action, f"d-back-{action.ring}", T0)
    late = replace(FORWARD, deployment="d-late")
    unknown = state.with_wave(replace(state.waves[1], deployment=""))
    assert recorded(unknown, WriteWave(1, "2.0.0", 10), "d-late", T0) == unknown
    decision = decide(plan, state, _seen([], replace(BACK, deployment="d-back-0"), late), T0 + 1)
    assert decision.actions == (PutBack(1, "1.0.0", 11),)


def test_the_rollouts_own_revision_shown_late_is_not_put_back_again(plan: Plan, second: State) -> None:
    state = commands.abort(plan, second, T0)
    for action in wanted(plan, state):
        state = recorded(state, action, f"d-back-{action.ring}", T0)
    decision = decide(plan, state, _seen([], FORWARD, replace(FORWARD, deployment="d-new-1")), T0 + 1)
    assert (decision.state.status, decision.actions) == (Status.PUTTING_BACK, ())


@pytest.mark.parametrize(
    "revision",
    [
        Revision("d-9", "9.0.0", "fleet-9", 9),
        Revision("d-9", "2.0.0", "", 0, ours=False),
        Revision("d-9", "", "", 0),
        Revision("d-9", "2.0.0", "fleet-10", 10, ours=False),
    ],
    ids=["another version", "by hand", "taken out", "by hand around ours"],
)
def test_a_foreign_revision_stops_the_rollout_and_touches_nothing(
    plan: Plan, running: State, revision: Revision
) -> None:
    decision = decide(plan, running, _seen([_done("a", 0, T0)], revision, BEFORE), T0)
    assert (decision.state.status, decision.actions) == (Status.STOPPED, ())
    assert decision.state.reason == "FOREIGN_REVISION: the latest deployment of ring 0, d-9, is not ours"
    assert decide(plan, decision.state, _seen([], revision, BEFORE), T0 + 1).actions == ()


def test_a_ring_that_is_not_written_yet_may_not_change_its_model_either(plan: Plan, running: State) -> None:
    other = Revision("d-9", "1.5.0", "fleet-9", 9)
    assert decide(plan, running, _seen([], FORWARD, other), T0).state.status is Status.STOPPED


def test_another_models_rollout_in_the_same_ring_does_not_disturb(plan: Plan, running: State) -> None:
    kept = replace(FORWARD, deployment="d-of-another-model")
    again = decide(plan, running, _seen([_done("a", 0, T0)], kept, replace(BEFORE, deployment="d-8")), T0)
    assert again.state.status is Status.RUNNING


def test_what_the_account_showed_before_the_write_is_not_foreign(plan: Plan, running: State) -> None:
    assert decide(plan, running, _seen([], BEFORE, BEFORE), T0).state.status is Status.RUNNING


def test_a_foreign_ring_is_left_alone_while_the_others_are_put_back(plan: Plan, second: State) -> None:
    state = commands.abort(plan, second, T0)
    decision = foreign(plan, state, 1, "d-9", T0)
    assert decision.actions == (PutBack(0, "1.0.0", 11),)
    state = recorded(decision.state, decision.actions[0], "d-back", T0)
    over = decide(plan, state, _seen([_back("a", 0, T0)], BACK, Revision("d-9", "9.0.0", "", 0, ours=False)), T0)
    assert over.state.status is Status.STOPPED
    assert over.state.reason == "aborted by an operator; FOREIGN_REVISION: left alone ring 1 by d-9"


def test_a_pause_withdraws_what_runs_and_a_resume_writes_it_again(plan: Plan, running: State) -> None:
    paused = commands.pause(running, T0)
    decision = decide(plan, paused, _seen([], FORWARD, BEFORE), T0 + 5_000_000)
    assert decision.actions == (Cancel(0, "d-new"),)
    assert decision.state.status is Status.PAUSED
    early = commands.resume(decision.state, T0)
    assert wanted(plan, early) == (Cancel(0, "d-new"),)  # what is to be written again is withdrawn first
    cancelled = recorded(decision.state, Cancel(0, "d-new"), "", T0)
    seen = _seen([], replace(FORWARD, cancelled=True), BEFORE)
    assert decide(plan, cancelled, seen, T0 + 6_000_000).actions == ()
    resumed = commands.resume(cancelled, T0 + 7_000_000)
    again = decide(plan, resumed, seen, T0 + 7_000_001)
    assert again.actions == (WriteWave(0, "2.0.0", 10),)
    assert again.state.status is Status.RUNNING


def test_what_was_written_unrecorded_before_a_pause_is_withdrawn_too(plan: Plan, running: State) -> None:
    intent = replace(running, waves=(replace(running.waves[0], deployment=""), running.waves[1]))
    paused = commands.pause(intent, T0)
    assert wanted(plan, paused) == ()
    assert not is_wanted(paused, WriteWave(0, "2.0.0", 10))
    assert decide(plan, paused, _seen([], FORWARD, BEFORE), T0).actions == (Cancel(0, "d-new"),)


def test_a_paused_rollout_neither_advances_nor_puts_back(plan: Plan, running: State) -> None:
    paused = recorded(commands.pause(running, T0), Cancel(0, "d-new"), "", T0)
    bad = _view("a", 0, T0, _report(NEW, 10, evidence=replace(EVIDENCE, errors=300)))
    looked = decide(plan, paused, _seen([bad], replace(FORWARD, cancelled=True), BEFORE), T0)
    assert (looked.state.status, looked.actions) == (Status.PAUSED, ())
    assert looked.state.waves[0].verdicts[1].outcome.value == "FAIL"
    after = decide(plan, commands.resume(looked.state, T0), _seen([bad], FORWARD, BEFORE), T0)
    assert after.state.status is Status.PUTTING_BACK


def test_a_ring_that_needs_approval_waits_for_it(plan: Plan, second: State) -> None:
    careful = replace(plan, limits=replace(LIMITS, approve=(1,)))
    now = T0 + 65_000
    before = replace(second, waves=(second.waves[0], WaveState(1)))
    seen = _seen([_done("a", 0, now)], FORWARD, BEFORE)
    waiting = decide(careful, before, seen, now)
    assert (waiting.state.status, waiting.actions) == (Status.WAITING, ())
    assert decide(careful, waiting.state, seen, now + 1).state.status is Status.WAITING
    approved = commands.approve(careful, waiting.state, None, now)
    assert decide(careful, approved, seen, now).actions == (WriteWave(1, "2.0.0", 10),)
    with pytest.raises(Refused, match="needs no approval"):
        commands.approve(careful, waiting.state, 0, now)


def test_a_first_version_that_fails_is_stopped_and_withdrawn_with_what_to_do(plan: Plan) -> None:
    first = replace(plan, previous_version="", previous_digest="", comparison=None)
    state = commands.start(planned(first), 10, 11, T0)
    state = decide(first, state, _seen([], Revision("", "", "", 0), Revision("", "", "", 0)), T0).state
    state = recorded(state, WriteWave(0, "2.0.0", 10), "d-new", T0)
    bad = _view("a", 0, T0, _report(NEW, 10, evidence=Evidence(requests=300, errors=300)))
    decision = decide(first, state, _seen([bad], FORWARD, Revision("", "", "", 0)), T0)
    assert (decision.state.status, decision.actions) == (Status.STOPPED, (Cancel(0, "d-new"),))
    assert "no version before watch@2.0.0 to put back" in decision.state.reason
    assert "until a repaired version is rolled out" in decision.state.reason


def test_a_rollback_needs_a_higher_epoch_and_reaches_every_ring(plan: Plan, second: State) -> None:
    done = replace(second, status=Status.SUCCEEDED)
    with pytest.raises(Refused, match="not higher"):
        commands.rollback(plan, done, 11, T0)
    state = commands.rollback(plan, done, 20, T0)
    assert wanted(plan, state) == (PutBack(0, "1.0.0", 20), PutBack(1, "1.0.0", 20))
    assert commands.rollback(plan, state, 21, T0) == state


def test_an_abort_before_any_ring_was_reached_only_stops(plan: Plan) -> None:
    stopped = commands.abort(plan, commands.start(planned(plan), 10, 11, T0), T0)
    assert (stopped.status, wanted(plan, stopped)) == (Status.STOPPED, ())


def test_a_ring_without_devices_is_written_last_and_passes_at_once(plan: Plan, second: State) -> None:
    empty = replace(plan, waves=(plan.waves[0], replace(plan.waves[1], devices=())))
    seen = _seen([_done("a", 0, T0)], FORWARD, replace(FORWARD, deployment="d-new-1"))
    assert decide(empty, second, seen, T0).state.status is Status.SUCCEEDED
