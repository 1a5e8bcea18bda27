"""Rollouts of a component onto real core devices of both nuclei: a small server that is good, fails, breaks, is mute.

The server reports by the runtime's own reporter, over the device's IPC, to its shadow.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.cli import rollout_table
from hybridge_cloud.deploy import Setting, Target, deploy
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.follow import heard
from hybridge_cloud.rollout import commands, prepare
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.controller import Controller
from hybridge_cloud.rollout.lease import wall_clock
from hybridge_cloud.rollout.plan import Limits
from hybridge_cloud.rollout.record import Record
from hybridge_cloud.rollout.state import State, Status, WaveStatus
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_edge.contract.errors import Refused

PREFIX = "acme"
SERVER, OTHER = f"{PREFIX}.InferenceServer", "com.example.Other"
GOOD, BREAKS, MUTE = "1.1.0", "1.3.0", "1.4.0"
UNFIT = {Mode.LITE: "1.5.0", Mode.CLASSIC: "1.6.0"}
"""Cannot be installed on one of the nuclei."""
RINGS = (Mode.LITE, Mode.CLASSIC)
PATIENCE = 60
LIMITS = Limits(bake_seconds=0, report_seconds=20, deadline_seconds=PATIENCE)
BAKING = replace(LIMITS, bake_seconds=PATIENCE - 1)
QUICK = replace(LIMITS, report_seconds=3)
PROGRAM = """
import os, sys, time
from pathlib import Path
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import PackageState
from hybridge_edge.reporting import Reporter, Snapshot

kind = sys.argv[1]
model = ModelReport("watch", "1.0.0", "sha256:" + "1" * 64, PackageState.ACTIVE, "", 1, requests=500)
snapshot = lambda: Snapshot("1.0.0", (model,), evaluating=True)
if kind != "mute":
    Reporter(os.environ["AWS_IOT_THING_NAME"], snapshot, Path.cwd(), evaluating_seconds=0.3).start()
if kind == "breaks":
    mark = Path("broke")
    time.sleep(0 if mark.exists() else 1.5)
    mark.touch()
    os._exit(1)
while True:
    time.sleep(1)
"""
ACCESS = {
    "accessControl": {
        "aws.greengrass.ipc.mqttproxy": {
            f"{SERVER}:mqttproxy:1": {
                "operations": ["aws.greengrass#PublishToIoTCore"],
                "resources": ["$aws/things/*/shadow/name/hybridge/update", "hybridge/*/telemetry"],
            }
        }
    }
}


@pytest.fixture(scope="module")
def published(account: Any) -> None:
    """The versions of the server, and a component beside it."""
    kinds = {"1.0.0": "good", GOOD: "good", BREAKS: "breaks", MUTE: "mute"}
    for version, kind in kinds.items():
        run = f"exec '{sys.executable}' '{{artifacts:decompressedPath}}/bundle/server.py' {kind}"
        account.publish(SERVER, version, run, configuration=ACCESS, files={"server.py": PROGRAM})
    for mode, version in UNFIT.items():
        run = f"exec '{sys.executable}' '{{artifacts:decompressedPath}}/bundle/server.py' good"
        install = f'test "$GGC_VERSION" != {limits_of(mode).version}'
        steps = {"install": install, "run": run}
        account.publish(SERVER, version, steps, configuration=ACCESS, files={"server.py": PROGRAM})
    account.publish(OTHER, "1.0.0", "exec sleep 1000", configuration={"level": "1"})


@dataclass
class Fleet:
    """A fleet of real devices that runs the server's first version, and the other component with a setting."""

    name: str
    bucket: Bucket
    devices: list[Any]

    def begin(self, what: str, limits: Limits = LIMITS) -> Record:
        made = prepare.prepare(self.bucket, self.name, Target.parse(what), limits, wall_clock())
        record = rollouts.create(self.bucket, made)
        rollouts.claim(self.bucket, record)
        first, second = (fleet_record.next_epoch(self.bucket, self.name) for _ in range(2))
        return self.change(record, lambda state: commands.start(state, first, second, wall_clock()))

    def change(self, record: Record, command: Callable[[State], State]) -> Record:
        return rollouts.change(self.bucket, record, lambda found: command(found.state))[1]

    def drive(self, record: Record, until: Callable[[State], bool] = lambda state: state.is_over) -> Record:
        """Turn until then, each time by a controller that knows nothing of the last one."""
        for _ in range(300):
            record = Controller(self.bucket, self.name, record.plan.id).turn().record
            if until(record.state):
                return record
            threading.Event().wait(0.15)
        raise AssertionError(record.state)

    def versions(self, account: Any) -> list[str]:
        """Of the server on each device; every one of them runs."""
        found = [account.installed(device.thing)[SERVER] for device in self.devices]
        assert {state for _, state in found} == {"RUNNING"}
        return [version for version, _ in found]

    def latest(self, ring: int) -> greengrass.Deployment:
        found = greengrass.latest_deployment(membership.rings(self.name)[ring].arn)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def fleet(account: Any, published: None, start_once: Any, wait_until: Any) -> Fleet:
    """Nucleus lite in ring 0 and classic in ring 1; every test but the last leaves it as it found it."""
    name, bucket = f"comp-{uuid.uuid4().hex[:6]}", Bucket(account.bucket)
    membership.ensure_fleet(bucket, name, PREFIX)
    made = Fleet(name, bucket, [start_once(mode, f"{name}-r{ring}") for ring, mode in enumerate(RINGS)])
    for device in made.devices:
        wait_until(lambda thing=device.thing: greengrass.core_device(thing))
    deploy(name, [Target("InferenceServer", "1.0.0"), Target(OTHER, "1.0.0")], [Setting(OTHER, "level", "7")], bucket)
    for device in made.devices:
        wait_until(lambda thing=device.thing: heard(thing))
        wait_until(lambda thing=device.thing: account.installed(thing).get(SERVER) == ("1.0.0", "RUNNING"))
    return made


def said(fleet: Fleet, record: Record) -> str:
    entries = rollouts.audit(fleet.bucket, fleet.name, record.plan.id)
    return "\n".join((*rollout_table.lines(record), *rollout_table.why(record, entries)))


@pytest.mark.parametrize("mode", list(Mode))
def test_a_version_that_cannot_be_installed_is_put_back_and_the_gap_is_stated(
    mode: Mode, account: Any, fleet: Fleet
) -> None:
    ring = RINGS.index(mode)
    done = fleet.drive(fleet.begin(f"{SERVER}@{UNFIT[mode]}"))
    assert done.state.status is Status.PUT_BACK, done.state.reason
    assert f"ring {ring} failed: activation: 0 of 1 devices run it" in done.state.reason
    assert "Greengrass: FAILED" in done.state.reason
    assert fleet.versions(account) == ["1.0.0"] * 2
    reached = [wave for wave in done.state.waves if wave.is_reached]
    assert {wave.status for wave in reached} == {WaveStatus.PUT_BACK}
    assert [wave.ring for wave in reached] == list(range(ring + 1))
    (gap,) = done.state.gaps
    thing = fleet.devices[ring].thing
    back = f"deployment {done.state.waves[ring].put_back_deployment}"
    assert (gap.thing, gap.by) == (thing, back if mode is Mode.LITE else "its nucleus")
    assert 0 < gap.seconds < PATIENCE
    text = said(fleet, done)
    assert text.count(f"gap: {thing} had no healthy {SERVER} for at most {gap.seconds:.0f} s; brought back by") == 2
    assert f"{thing} has no healthy {SERVER}: Greengrass: FAILED" in text


def test_a_version_that_starts_well_and_then_breaks_is_put_back_by_a_revision(account: Any, fleet: Fleet) -> None:
    record = fleet.begin(f"{SERVER}@{BREAKS}", BAKING)
    record = fleet.drive(record, lambda state: bool(state.waves[0].deployment))
    handed_over = account.outcome(fleet.devices[0].thing, record.state.waves[0].deployment)
    assert handed_over[0] == "SUCCEEDED", "Greengrass sees no failure"
    done = fleet.drive(record)
    assert done.state.status is Status.PUT_BACK, done.state.reason
    assert f"{BREAKS} is BROKEN: it started and did not stay up" in done.state.reason
    assert fleet.versions(account) == ["1.0.0"] * 2
    assert [gap.by for gap in done.state.gaps] == [f"deployment {done.state.waves[0].put_back_deployment}"]


@pytest.mark.skipif(not os.environ.get("HYBRIDGE_TEST_LONG"), reason="set HYBRIDGE_TEST_LONG")
def test_a_version_that_runs_and_says_nothing_is_put_back(account: Any, fleet: Fleet) -> None:
    done = fleet.drive(fleet.begin(f"{SERVER}@{MUTE}", QUICK))
    assert done.state.status is Status.PUT_BACK, done.state.reason
    assert f"{MUTE} is RUNNING, and its server said nothing for " in done.state.reason
    assert fleet.versions(account) == ["1.0.0"] * 2


def test_an_abort_puts_the_version_before_back_on_every_device_reached(account: Any, fleet: Fleet) -> None:
    record = fleet.drive(fleet.begin(f"{SERVER}@{GOOD}", BAKING), lambda state: bool(state.waves[0].settled_at_ms))
    assert fleet.versions(account) == [GOOD, "1.0.0"]
    record = fleet.change(record, lambda state: commands.advance(state, wall_clock()))
    record = fleet.drive(record, lambda state: bool(state.waves[1].settled_at_ms))
    assert fleet.versions(account) == [GOOD, GOOD]
    made = record.plan
    done = fleet.drive(fleet.change(record, lambda state: commands.abort(made, state, wall_clock())))
    assert done.state.status is Status.PUT_BACK
    assert (fleet.versions(account), done.state.gaps) == (["1.0.0"] * 2, ())
    assert rollouts.holder_of(fleet.bucket, fleet.name, SERVER) is None


def test_a_good_version_goes_ring_by_ring_and_keeps_everything_else(account: Any, fleet: Fleet) -> None:
    before = [fleet.latest(ring) for ring in (0, 1)]
    record = fleet.begin(f"InferenceServer@{GOOD}")
    assert record.plan.id == f"{SERVER}-{GOOD}-2"
    with pytest.raises(Refused, match="holds this component"):
        deploy(fleet.name, [Target("InferenceServer", MUTE)], [], fleet.bucket)
    done = fleet.drive(record)
    assert done.state.status is Status.SUCCEEDED, done.state.reason
    assert (fleet.versions(account), done.state.gaps) == ([GOOD] * 2, ())
    for ring in (0, 1):
        latest = fleet.latest(ring)
        assert int(latest.revision) == int(before[ring].revision) + 1, "one revision a wave"
        assert latest.components[SERVER] == replace(before[ring].components[SERVER], version=GOOD)
        assert latest.components[OTHER] == before[ring].components[OTHER]
        assert json.loads(latest.components[OTHER].merge) == {"level": "7"}
        baseline = done.state.waves[ring].baseline
        assert baseline is not None
        assert baseline.models == ("watch",)
    assert fleet_record.read(fleet.bucket, fleet.name).models == ()
    assert rollouts.find(fleet.bucket, fleet.name, f"InferenceServer@{GOOD}").plan.id == record.plan.id
    with pytest.raises(Refused, match=rf"runs {SERVER} {GOOD} already"):
        fleet.begin(f"{SERVER}@{GOOD}")
