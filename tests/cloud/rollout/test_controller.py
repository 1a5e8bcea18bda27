"""Driving rollouts against a real account: waves, put back, crashes, several controllers, others' revisions, leases."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.deploy import Target, deploy
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.rollout import commands, look
from hybridge_cloud.rollout import lease as leases
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.controller import Controller
from hybridge_cloud.rollout.lease import LeaseHeld, wall_clock
from hybridge_cloud.rollout.record import Record
from hybridge_cloud.rollout.state import Status, WaveStatus
from hybridge_edge.contract.errors import Conflict, Refused, Unavailable

DYING = Path(__file__).with_name("controller_that_dies.py")
TURNS = 40
SECONDS = 60


def begin(record: Record, bucket: Bucket) -> Record:
    fleet = record.plan.fleet
    rollouts.claim(bucket, record)
    first, second = fleet_record.next_epoch(bucket, fleet), fleet_record.next_epoch(bucket, fleet)
    return rollouts.change(bucket, record, lambda found: commands.start(found.state, first, second, wall_clock()))[1]


def drive(fleet: Any, record: Record, controller: Controller | None = None) -> Record:
    """Turn a controller and the devices by turns until the rollout is over."""
    controller = controller or Controller(fleet.bucket, fleet.name, record.plan.id)
    for _ in range(TURNS):
        record = controller.turn().record
        if record.state.is_over:
            return record
        fleet.turn()
    raise AssertionError(f"not over after {TURNS} turns: {record.state}")


def versions(fleet: Any, model: str = "toy") -> list[str]:
    return [device.reports[model].version for device in fleet.devices]


def test_a_good_version_passes_ring_by_ring_and_becomes_what_the_fleet_runs(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0, 1, 1)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    done = drive(fleet, record)
    assert done.state.status is Status.SUCCEEDED, done.state.reason
    assert versions(fleet) == ["2.0.0"] * 3
    assert versions(fleet, "other") == ["1.0.0"] * 3
    for ring in (0, 1):
        assert len(fleet.deployments(ring)) == 2, "one revision a wave"
        latest = fleet.latest(ring)
        assert json.loads(latest.components["hybridge.InferenceServer"].merge) == {"tcp": "127.0.0.1:0"}
        asked = json.loads(latest.components["hybridge.model.toy"].merge)["hybridge"]
        assert asked == {"rollout": record.plan.id, "epoch": str(done.state.epoch), "mode": "activate"}
    runs = fleet_record.read(fleet.bucket, fleet.name).find("toy")
    assert runs is not None
    assert (runs.version, runs.rollout, runs.epoch) == ("2.0.0", record.plan.id, done.state.epoch)
    said = [line for entry in rollouts.audit(fleet.bucket, fleet.name, record.plan.id) for line in entry.lines]
    assert said[-1].startswith("RUNNING -> SUCCEEDED")
    assert sum("written at epoch" in line for line in said) == 2


def test_a_bad_version_is_stopped_in_ring_0_and_put_back_by_a_higher_epoch(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0, 1)
    done = drive(fleet, begin(fleet.plan("3.0.0"), fleet.bucket))
    assert done.state.status is Status.PUT_BACK
    assert "disagreement on probes: " in done.state.reason
    assert "180 of 256" in done.state.reason
    assert versions(fleet) == ["1.0.0", "1.0.0"]
    assert [wave.status for wave in done.state.waves] == [WaveStatus.PUT_BACK, WaveStatus.PENDING]
    assert [len(fleet.deployments(ring)) for ring in (0, 1)] == [3, 1]
    runs = fleet_record.read(fleet.bucket, fleet.name).find("toy")
    assert runs is not None
    assert (runs.version, runs.epoch) == ("1.0.0", done.state.put_back_epoch)
    assert rollouts.holder_of(fleet.bucket, fleet.name, "toy") is None


class Died(BaseException):
    """What stops a controller as a kill does: nothing after it runs but what must not matter."""


class Mortal:
    """Counts what a controller does to the account and stops it at one of these calls, before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        monkeypatch.setattr(Bucket, "put", self._deadly(Bucket.put))
        monkeypatch.setattr(greengrass, "create_deployment", self._deadly(greengrass.create_deployment))

    def _deadly(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self._count()
            answer = real(*given, **named)
            self._count()
            return answer

        return call

    def _count(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1


@pytest.mark.parametrize("seed", [1, 2])
def test_controllers_may_die_at_any_call_and_each_wave_is_one_deployment(
    seed: int, make_fleet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = make_fleet(0)
    patient = replace(fleet.limits, report_seconds=10**6, deadline_seconds=10**6)
    record = begin(fleet.plan("3.0.0", limits=patient), fleet.bucket)
    later, deaths, lives = 0, 0, random.Random(seed)
    mortal = Mortal(monkeypatch)
    for _ in range(200):
        mortal.left = lives.randrange(10)
        later += int(leases.LEASE_SECONDS * 1000)  # a dead one keeps its lease until it expires
        controller = Controller(fleet.bucket, fleet.name, record.plan.id, clock=lambda add=later: wall_clock() + add)
        try:
            record = controller.turn().record
        except Died:
            deaths += 1
        mortal.left = -1
        if record.state.is_over:
            break
        fleet.turn()
    assert deaths >= 3
    assert record.state.status is Status.PUT_BACK
    epochs = (record.state.epoch, record.state.put_back_epoch)
    assert fleet.deployments(0)[1:] == [f"{record.plan.id}-r0-e{epoch}" for epoch in epochs]
    assert versions(fleet) == ["1.0.0"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_controller_killed_between_intent_and_record_is_taken_over(when: str, make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    died = subprocess.run([sys.executable, str(DYING), fleet.name, record.plan.id, when], timeout=SECONDS)
    assert died.returncode == -signal.SIGKILL
    record = rollouts.read(fleet.bucket, fleet.name, record.plan.id)
    assert record.state.wave(0).status is WaveStatus.WRITTEN
    assert record.state.wave(0).deployment == "", "the intent is there, the outcome is not"
    assert len(fleet.deployments(0)) == (2 if when == "after" else 1)

    turn = Controller(fleet.bucket, fleet.name, record.plan.id, lease_wait_seconds=0).turn()
    held = [line for line in turn.lines if line.startswith("HOLD: ring 0 waits for its lease")]
    assert len(held) == (1 if when == "before" else 0), "what is written already needs no lease to be found"
    clock = lambda: wall_clock() + int(leases.LEASE_SECONDS * 1000)  # noqa: E731
    done = drive(fleet, record, Controller(fleet.bucket, fleet.name, record.plan.id, clock=clock))
    assert done.state.status is Status.SUCCEEDED
    assert fleet.deployments(0)[1:] == [f"{record.plan.id}-r0-e{done.state.epoch}"]


def test_two_controllers_at_once_write_each_wave_once(
    make_fleet: Callable[..., Any], busy: Callable[[Any], None]
) -> None:
    fleet = make_fleet(0, 1, 2)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    busy(fleet)
    words = ["rollout", "watch", record.plan.id, "--fleet", fleet.name, "--poll", "0.2"]
    program = [sys.executable, "-c", "from hybridge_cloud.cli import main; main()", *words]
    both = [subprocess.Popen(program, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=SECONDS)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all("is SUCCEEDED" in text for text in said)
    done = rollouts.read(fleet.bucket, fleet.name, record.plan.id)
    for ring in range(3):
        assert fleet.deployments(ring)[1:] == [f"{record.plan.id}-r{ring}-e{done.state.epoch}"]
    lines = [line for entry in rollouts.audit(fleet.bucket, fleet.name, record.plan.id) for line in entry.lines]
    assert sum("written at epoch" in line for line in lines) == 3, lines


def foreign_revision(fleet: Any, ring: int) -> str:
    """What an operator's console does: a revision of the whole list, by nobody's lease."""
    components = {**fleet.latest(ring).components, "hybridge.model.toy": fleet.wanted("1.0.0")}
    return greengrass.create_deployment(fleet.ring(ring).arn, "by hand", components)


def test_a_revision_by_somebody_else_stops_the_rollout_which_touches_nothing_more(
    make_fleet: Callable[..., Any],
) -> None:
    fleet = make_fleet(0, 1)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    controller = Controller(fleet.bucket, fleet.name, record.plan.id)
    controller.turn()
    controller.turn()
    by_hand = foreign_revision(fleet, 0)
    stopped = controller.turn().record
    assert stopped.state.status is Status.STOPPED
    assert "FOREIGN_REVISION" in stopped.state.reason
    assert by_hand in stopped.state.reason
    assert fleet.deployments(0)[-1] == "by hand"
    assert len(fleet.deployments(1)) == 1
    assert rollouts.holder_of(fleet.bucket, fleet.name, "toy") is None


def test_a_ring_somebody_else_wrote_before_its_wave_is_not_written_over(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0, 1)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    by_hand = foreign_revision(fleet, 1)
    done = drive(fleet, record)
    assert done.state.status is Status.STOPPED
    assert f"FOREIGN_REVISION: the latest deployment of ring 1, {by_hand}" in done.state.reason
    assert fleet.deployments(1)[1:] == ["by hand"]


def test_two_rollouts_of_different_models_in_one_ring_do_not_disturb_each_other(
    make_fleet: Callable[..., Any],
) -> None:
    fleet = make_fleet(0, 1)
    good = begin(fleet.plan("2.0.0"), fleet.bucket)
    bad = begin(fleet.plan("3.0.0", "other"), fleet.bucket)
    controllers = [Controller(fleet.bucket, fleet.name, record.plan.id) for record in (good, bad)]
    for _ in range(TURNS):
        states = [controller.turn().record.state for controller in controllers]
        if all(state.is_over for state in states):
            break
        fleet.turn()
    assert [state.status for state in states] == [Status.SUCCEEDED, Status.PUT_BACK], states
    assert (versions(fleet), versions(fleet, "other")) == (["2.0.0"] * 2, ["1.0.0"] * 2)
    models = fleet_record.read(fleet.bucket, fleet.name).models
    assert {model.model: model.version for model in models} == {"toy": "2.0.0", "other": "1.0.0"}


def test_a_model_that_a_rollout_holds_is_neither_deployed_nor_rolled_out_twice(
    make_fleet: Callable[..., Any],
) -> None:
    fleet = make_fleet(0)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    with pytest.raises(Refused, match=f"The rollout {record.plan.id} of toy 2.0.0 holds this model"):
        deploy(fleet.name, [Target("toy", "3.0.0")], [], fleet.bucket)
    with pytest.raises(Refused, match=record.plan.id):
        rollouts.claim(fleet.bucket, fleet.plan("3.0.0"))
    rollouts.claim(fleet.bucket, record)
    assert len(fleet.deployments(0)) == 1
    deploy(fleet.name, [Target("other", "2.0.0")], [], fleet.bucket)
    assert drive(fleet, record).state.status is Status.SUCCEEDED, "a deployment of ours is no foreign revision"
    deploy(fleet.name, [Target("toy", "3.0.0")], [], fleet.bucket)


def test_a_lease_is_held_by_one_is_waited_for_and_is_taken_over_once_it_expired(bucket: Bucket) -> None:
    now = 1_000_000
    later = now + int(leases.LEASE_SECONDS * 1000)
    with leases.held(bucket, "lease-r0", "first", clock=lambda: now) as first:
        with (
            pytest.raises(LeaseHeld, match="first is writing"),
            leases.held(bucket, "lease-r0", "second", clock=lambda: later - 1, wait_seconds=0),
        ):
            pass
        with leases.held(bucket, "lease-r0", "second", clock=lambda: later) as second:
            second.intend("by second", "")
            with pytest.raises(LeaseHeld, match="second is writing"):
                first.intend("by first", "")
    assert leases.read(bucket, "lease-r0").writing == "by second"
    with leases.held(bucket, "lease-r0", "late", clock=lambda: now) as late:
        late._clock = lambda: later - 1  # it slept; nobody has taken the lease over yet
        with pytest.raises(LeaseHeld):
            late.intend("too late", "")


def test_a_state_is_replaced_only_by_who_read_it_last(make_fleet: Callable[..., Any]) -> None:
    fleet = make_fleet(0)
    stale = fleet.plan("2.0.0")
    begin(stale, fleet.bucket)
    with pytest.raises(Conflict):
        rollouts.store(fleet.bucket, stale, commands.abort(stale.plan, stale.state, 1))


def test_a_controller_outlives_an_account_that_does_not_answer(
    make_fleet: Callable[..., Any], busy: Callable[[Any], None]
) -> None:
    fleet = make_fleet(0)
    record = begin(fleet.plan("2.0.0"), fleet.bucket)
    busy(fleet)
    failures = [Unavailable("greengrassv2 does not answer."), Conflict("s3: someone was faster.")]
    told: list[str] = []

    def observe(*given: Any) -> Any:
        if failures:
            raise failures.pop()
        return look.observe(*given)

    controller = Controller(
        fleet.bucket, fleet.name, record.plan.id, observe=observe, told=lambda turn: told.extend(turn.lines)
    )
    done = controller.run(threading.Event(), 0.1)
    assert done.state.status is Status.SUCCEEDED
    assert [line for line in told if line.startswith("waiting: ")] == [
        "waiting: s3: someone was faster.",
        "waiting: greengrassv2 does not answer.",
    ]
