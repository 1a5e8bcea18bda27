"""The decision about a component, one look at a time: its gates, its putting back, its gaps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridge_cloud.aws.greengrass import Deployment, InstalledComponent, Wanted
from hybridge_cloud.rollout import commands, look
from hybridge_cloud.rollout.action import PutBack, WriteWave, recorded
from hybridge_cloud.rollout.baseline import Baseline, Missing, ModelMedian
from hybridge_cloud.rollout.decide import Decision, decide
from hybridge_cloud.rollout.gap import Gap
from hybridge_cloud.rollout.observation import DeviceView, Observation, Revision
from hybridge_cloud.rollout.plan import Limits, Plan, Wave
from hybridge_cloud.rollout.state import State, Status, planned
from hybridge_edge.contract.report import Evidence, ModelReport
from hybridge_edge.contract.states import PackageState

SERVER = "hybridge.InferenceServer"
ID = f"{SERVER}-2.0.0-1"
OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64
T0 = 1_000_000
LIMITS = Limits(bake_seconds=60, report_seconds=100, deadline_seconds=1000)
BEFORE = Revision("d-before", "1.0.0", "", 0)
FORWARD = Revision("d-new", "2.0.0", ID, 10)
BACK = Revision("d-back", "1.0.0", ID, 11)


@pytest.fixture
def plan() -> Plan:
    waves = (Wave(0, "fleet-r0", ("a",)), Wave(1, "fleet-r1", ("b", "c")))
    return Plan(ID, "fleet", SERVER, "2.0.0", NEW, "1.0.0", OLD, None, waves, LIMITS, T0, "somebody")


@pytest.fixture
def running(plan: Plan) -> State:
    """Ring 0 is written; its device ran one model before, 1,000 requests, 10 of them failed, 1,000 us each."""
    state = commands.start(planned(plan), 10, 11, T0)
    before = view("a", "1.0.0", since=5, at=T0 - 5, reports=(model(requests=1000, failures=10),))
    state = decide(plan, state, seen([before], BEFORE, BEFORE), T0).state
    return recorded(state, WriteWave(0, "2.0.0", 10), "d-new", T0)


def model(name: str = "watch", state: str = "ACTIVE", p50_us: int = 1000, **counts: int) -> ModelReport:
    evidence = Evidence(requests=500, p50_us=p50_us)
    return ModelReport(name, "1.0.0", OLD, PackageState(state), "fleet-3", 3, evidence=evidence, **counts)  # type: ignore[arg-type]


def view(
    thing: str, version: str, state: str = "RUNNING", *, since: int, at: int, ring: int = 0, **more: object
) -> DeviceView:
    """A device whose nucleus says since when the component is so, and which reported at that time."""
    plain = {"online": True, "taken": True, "succeeded": True, "reports_due": True}
    given: dict[str, object] = {**plain, "reports": (model(requests=500),), **more}
    component = InstalledComponent(SERVER, version, state, since)
    return DeviceView(thing, ring, last_report_ms=at, component=component, **given)  # type: ignore[arg-type]


def done(thing: str, now: int, ring: int = 0, **more: object) -> DeviceView:
    return view(thing, "2.0.0", since=now - 2000, at=now, ring=ring, **more)


def seen(devices: list[DeviceView], *revisions: Revision) -> Observation:
    return Observation(tuple(devices), dict(enumerate(revisions)))


def looked(plan: Plan, state: State, device: DeviceView, now: int) -> Decision:
    return decide(plan, state, seen([device], FORWARD, BEFORE), now)


def test_a_healthy_device_passes_its_wave_after_the_bake_and_the_next_one_is_written(
    plan: Plan, running: State
) -> None:
    now = T0 + 5_000
    baking = looked(plan, running, done("a", now), now)
    assert baking.state.reason == "ring 0: every gate passes; 60 s of its bake are left"
    assert baking.state.waves[0].baseline == Baseline(("watch",), (), 1000, 10, (ModelMedian("watch", 1000),))
    over = looked(plan, baking.state, done("a", now + 60_000), now + 60_000)
    assert over.actions == (WriteWave(1, "2.0.0", 10),)
    assert State.from_bytes(over.state.to_bytes()) == over.state


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (view("a", "1.0.0", since=5, at=T0 + 5000, succeeded=False, taken=False), "has not taken the deployment"),
        (view("a", "1.0.0", since=5, at=T0 + 5000, succeeded=False), "has taken the deployment and not ended it"),
        (view("a", "1.0.0", since=5, at=T0 + 5000), "has taken the deployment and lists 1.0.0 RUNNING"),
        (view("a", "2.0.0", "STARTING", since=T0, at=T0 + 5000), "2.0.0 is STARTING"),
        (view("a", "2.0.0", since=T0 + 5000, at=T0 + 5000), "its server has not reported since"),
        (view("a", "2.0.0", since=T0, at=T0 + 5000, reports=()), "does not report watch ACTIVE"),
        (view("a", "2.0.0", since=T0, at=T0 + 5000, reports=(model(state="BUILDING"),)), "not report watch ACTIVE"),
        (view("a", "2.0.0", since=T0, at=T0 + 5000, succeeded=False), "not ended it"),
    ],
)
def test_what_is_not_done_yet_holds_and_fails_at_the_deadline(
    device: DeviceView, said: str, plan: Plan, running: State
) -> None:
    held = looked(plan, running, device, T0 + 6_000)
    assert (held.state.status, held.actions) == (Status.RUNNING, ())
    assert said in held.state.reason
    late = looked(plan, held.state, replace(device, online=True), T0 + 1_000_001)
    assert late.actions == (PutBack(0, "1.0.0", 11),)  # silence never passes


@pytest.mark.parametrize(
    ("device", "now", "said"),
    [
        (view("a", "2.0.0", "BROKEN", since=T0 + 5, at=T0), 6_000, "2.0.0 is BROKEN: it started and did not stay up"),
        (view("a", "2.0.0", since=T0 + 9000, at=T0), 110_000, "its server said nothing for 101 s"),
        (view("a", "2.0.0", since=T0, at=T0 + 9000), 210_000, "reported, and its server said nothing for 201 s since"),
        (view("a", "2.0.0", since=T0, at=T0 + 101_000, reports=()), 101_000, "does not report watch ACTIVE"),
        (view("a", "2.0.0", "BROKEN", since=T0 + 5, at=T0, succeeded=False, failed="FAILED: no"), 6_000,
         "Greengrass: FAILED: no; 2.0.0 is BROKEN there"),
        (view("a", "1.0.0", since=T0 + 5, at=T0, succeeded=False, failed="FAILED: no"), 6_000,
         "Greengrass: FAILED: no; its nucleus put 1.0.0 back, which is RUNNING"),
        (done("a", T0 + 6000, reports=(model(requests=400, failures=100),)), 6_000,
         "errors: 100 of 400 requests failed (25.0 %), at most 1.0 % (10 of 1000 before)"),
        (done("a", T0 + 6000, reports=(model(p50_us=1600),)), 6_000, "latency: watch: median 1600 us, 1000 us before"),
    ],
    ids=["broken", "mute", "silent", "no models", "lite", "classic", "errors", "slow"],
)  # fmt: skip
def test_what_fails_puts_back_at_once_and_says_why(
    device: DeviceView, now: int, said: str, plan: Plan, running: State
) -> None:
    decision = looked(plan, running, device, T0 + now)
    assert decision.actions == (PutBack(0, "1.0.0", 11),)
    assert said in decision.state.reason


def test_a_device_that_nobody_put_back_fails_the_wave_whatever_number_may_fail(plan: Plan, running: State) -> None:
    lenient = replace(plan, limits=replace(LIMITS, failed_devices=1))
    went_back = view("a", "1.0.0", since=T0 + 5, at=T0, succeeded=False, failed="FAILED: no")
    down = view("a", "2.0.0", "BROKEN", since=T0 + 5, at=T0, succeeded=False, failed="FAILED: no")
    assert looked(lenient, running, went_back, T0 + 6_000).state.status is Status.RUNNING
    assert looked(lenient, running, down, T0 + 6_000).state.status is Status.PUTTING_BACK


def test_a_model_that_did_not_run_before_need_not_run_after(plan: Plan, running: State) -> None:
    baseline = Baseline(("watch", "wake"), (Missing("a", "wake"),))
    state = running.with_wave(replace(running.waves[0], baseline=baseline))
    assert looked(plan, state, done("a", T0 + 5_000), T0 + 5_000).state.waves[0].settled_at_ms == T0 + 5_000


def test_without_a_server_beside_it_the_deployment_and_the_nucleus_are_all_there_is(plan: Plan, running: State) -> None:
    quiet = view("a", "2.0.0", "FINISHED", since=T0, at=0, reports=(), reports_due=False)
    assert looked(plan, running, quiet, T0 + 5_000).state.waves[0].settled_at_ms == T0 + 5_000


def test_the_gap_on_lite_ends_with_the_report_after_the_revision_that_puts_back(plan: Plan, running: State) -> None:
    down = view("a", "2.0.0", "BROKEN", since=T0 + 5_000, at=T0 + 1_000, succeeded=False, failed="FAILED: no")
    state = looked(plan, running, down, T0 + 6_000).state
    (gap,) = state.gaps
    assert (gap.since_ms, gap.until_ms) == (T0 + 1_000, 0)  # a report came after the write: it was up until then
    state = recorded(state, PutBack(0, "1.0.0", 11), "d-back", T0 + 6_500)

    def back(device: DeviceView, now: int) -> State:
        return decide(plan, state, seen([device], BACK, BEFORE), now).state

    up = view("a", "1.0.0", since=T0 + 8_000, at=T0 + 1_000, succeeded=False)
    assert back(up, T0 + 8_500).gaps == (gap,), "no report since: not healthy yet"
    assert back(up, T0 + 8_500).status is Status.PUTTING_BACK
    over = back(replace(up, last_report_ms=T0 + 9_000, succeeded=True), T0 + 9_500)
    assert (over.status, over.exceptions) == (Status.PUT_BACK, ())
    (closed,) = over.gaps
    assert (closed.seconds, closed.by) == (8.0, "deployment d-back")
    assert closed.sentence(SERVER) == (f"a had no healthy {SERVER} for at most 8 s; brought back by deployment d-back")
    assert State.from_bytes(over.to_bytes()) == over


def test_the_gap_on_classic_is_counted_from_the_write_and_its_nucleus_ended_it(plan: Plan, running: State) -> None:
    healed = view("a", "1.0.0", since=T0 + 4_000, at=T0 + 5_000, succeeded=False, failed="FAILED: no")
    decision = looked(plan, running, healed, T0 + 6_000)
    assert decision.state.gaps == (Gap("a", T0, decision.state.gaps[0].why, T0 + 5_000, "its nucleus"),)
    assert decision.actions == (PutBack(0, "1.0.0", 11),)
    assert sum("healthy" in line for line in decision.audit) == 2


def test_a_put_back_that_fails_too_is_listed_and_its_gap_stays_open(plan: Plan, running: State) -> None:
    down = view("a", "2.0.0", "BROKEN", since=T0 + 5_000, at=T0, succeeded=False, failed="FAILED: no")
    state = looked(plan, running, down, T0 + 6_000).state
    state = recorded(state, PutBack(0, "1.0.0", 11), "d-back", T0 + 6_500)
    over = decide(plan, state, seen([down], BACK, BEFORE), T0 + 7_000).state
    assert over.status is Status.PUT_BACK
    assert [item.thing for item in over.exceptions] == ["a"]
    assert over.gaps[0].until_ms == 0
    healed = view("a", "1.0.0", since=T0 + 50_000, at=T0 + 60_000)
    assert decide(plan, over, seen([healed], BACK, BEFORE), T0 + 61_000).state.exceptions == ()


def test_an_abort_puts_back_every_ring_reached_and_a_good_device_has_no_gap(plan: Plan, running: State) -> None:
    now = T0 + 5_000
    state = looked(plan, running, done("a", now), now).state
    state = looked(plan, state, done("a", now + 60_000), now + 60_000).state
    state = recorded(state, WriteWave(1, "2.0.0", 10), "d-new-1", now + 60_000)
    state = commands.abort(plan, state, now + 61_000)
    forward = (FORWARD, replace(FORWARD, deployment="d-new-1"))
    decision = decide(plan, state, seen([done("a", now + 61_000)], *forward), now + 61_000)
    assert decision.actions == (PutBack(0, "1.0.0", 11), PutBack(1, "1.0.0", 11))
    assert decision.state.gaps == ()


@pytest.mark.parametrize(
    ("name", "version", "ours", "put_back", "asked"),
    [
        (f"{ID}-r0-e10", "2.0.0", True, "", (ID, 10)),
        (f"{ID}-r0-e11", "1.0.0", True, "", (ID, 11)),
        ("toy-2.0.0-1-r0-e12", "2.0.0", True, "", (ID, 10)),
        ("toy-2.0.0-1-r0-e12", "1.0.0", True, "d-back", (ID, 11)),
        ("toy-2.0.0-1-r0-e12", "1.0.0", True, "", ("", 0)),
        ("by hand", "2.0.0", False, "", ("", 0)),
        (f"{ID}-r1-e10", "1.0.0", False, "", ("", 0)),
    ],
    ids=["ours", "ours back", "kept", "kept back", "before", "by hand", "another ring's"],
)
def test_a_revision_is_known_by_its_name_or_where_another_rollout_kept_it_by_its_version(
    name: str, version: str, ours: bool, put_back: str, asked: tuple[str, int], plan: Plan, running: State
) -> None:
    state = replace(running, put_back_epoch=11).with_wave(replace(running.waves[0], put_back_deployment=put_back))
    latest = Deployment("d", name, "arn", "3", "ACTIVE", {SERVER: Wanted(version)})
    found = look.asked_of(plan, state, 0, latest, ours)
    assert (found.version, found.rollout, found.epoch, found.ours) == (version, *asked, ours)
