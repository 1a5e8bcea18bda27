"""See what a decision needs to see: the latest revision of every ring, and what devices say of themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import TypeVar

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.greengrass import CANCELLED, Deployment, Execution
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet.membership import Ring
from hybridge_cloud.follow import heard
from hybridge_cloud.rollout import lease as leases
from hybridge_cloud.rollout.observation import DeviceView, Observation, Revision
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.state import State
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import InvalidDocument

CALLS_AT_ONCE = 16
READ_TRIES = 5
"""Of a ring that others write at the same time, until deployment and lease are of one moment."""
_NOT_TAKEN = frozenset({"QUEUED", CANCELLED})
_FAILED = frozenset({"FAILED", "TIMED_OUT", "REJECTED"})
_SUCCEEDED = frozenset({"SUCCEEDED", "COMPLETED"})

T = TypeVar("T")
R = TypeVar("R")


def observe(bucket: Bucket, plan: Plan, state: State, prefix: str, now_ms: int) -> Observation:
    """What is there now of a rollout's fleet.

    Args:
        prefix: of the fleet's components' names.

    Raises:
        Unavailable: the account does not answer.
    """
    rings = membership.rings(plan.fleet)
    found = _at_once(lambda ring: _revision(bucket, plan, state, ring, prefix), rings)
    server = names.ComponentNames(prefix).inference_server
    serving = {ring.number for ring, (_, listed) in zip(rings, found, strict=True) if server in listed}
    revisions = {ring.number: revision for ring, (revision, _) in zip(rings, found, strict=True) if revision}
    devices = [(thing, ring) for ring in rings for thing in ring.devices]

    def view(item: tuple[str, Ring]) -> DeviceView:
        thing, ring = item
        seen = _view(plan, state, thing, ring, revisions.get(ring.number), now_ms)
        return _with_component(plan, seen, is_serving=ring.number in serving) if plan.is_component else seen

    views = _at_once(view, devices)
    return Observation(tuple(views), revisions)


def revision_of(latest: Deployment, component: str, ours: bool) -> Revision:
    """What a deployment asks of one component. Pure."""
    wanted = latest.components.get(component)
    asked = json.loads(wanted.merge).get("hybridge") if wanted is not None and wanted.merge else None
    rollout, epoch, mode = "", 0, "activate"
    if isinstance(asked, dict):
        mode = str(asked.get("mode", mode))
        rollout, text = str(asked.get("rollout", "")), str(asked.get("epoch", ""))
        epoch = int(text) if text.isdecimal() else 0
    version = wanted.version if wanted else ""
    return Revision(latest.id, version, rollout, epoch, latest.status == CANCELLED, ours, mode)


def asked_of(plan: Plan, state: State, ring: int, latest: Deployment, ours: bool) -> Revision:
    """What a ring's deployment asks of the component that is rolled out. Pure.

    A component is handed no rollout and no epoch: a device runs the version that its ring's latest deployment names. So
    both are told by the deployment's name, or where another rollout's revision kept ours, by the version: while a
    rollout holds the component, no command of ours writes another one.
    """
    wanted = latest.components.get(plan.model)
    version = wanted.version if wanted is not None else ""
    named = re.fullmatch(rf"{re.escape(plan.id)}-r{ring}-e(\d{{1,9}})", latest.name)
    wave = next((item for item in state.waves if item.ring == ring and item.is_reached), None)
    rollout, epoch = "", 0
    if named is not None:
        rollout, epoch = plan.id, int(named[1])
    elif ours and wave is not None and version == plan.version:
        rollout, epoch = plan.id, wave.epoch
    elif ours and wave is not None and version == plan.previous_version and wave.put_back_deployment:
        rollout, epoch = plan.id, state.put_back_epoch
    return Revision(latest.id, version, rollout, epoch, latest.status == CANCELLED, ours)


def _revision(
    bucket: Bucket, plan: Plan, state: State, ring: Ring, prefix: str
) -> tuple[Revision | None, frozenset[str]]:
    """A ring's latest revision, and the components it names; None where others wrote it all the time that we looked.

    The deployment and the lease that says whose it is cannot be read at one moment, so a deployment counts as foreign
    only where the lease stayed the same while it was read.
    """
    before = leases.read(bucket, ring.group)
    for _ in range(READ_TRIES):
        latest = greengrass.latest_deployment(ring.arn)
        after = leases.read(bucket, ring.group)
        if latest is None:
            return Revision("", "", "", 0, ours=not after.deployment), frozenset()
        ours = after.wrote(latest)
        if ours or after == before:
            if plan.is_component:
                found = asked_of(plan, state, ring.number, latest, ours)
            else:
                found = revision_of(latest, plan.component(prefix), ours)
            return found, frozenset(latest.components)
        before = after
    return None, frozenset()


def _view(plan: Plan, state: State, thing: str, ring: Ring, revision: Revision | None, now_ms: int) -> DeviceView:
    core = greengrass.core_device(thing)
    try:
        last = heard(thing)
    except InvalidDocument:
        last = None  # what cannot be read says nothing, and silence never passes
    report_ms = last.at_ms if last else 0
    heard_ms = max(report_ms, core.reported_ms if core else 0)
    reports = last.report.models if last else ()
    if not plan.is_component:
        reports = tuple(item for item in reports if item.model == plan.model)
    epoch, carriers = _asked(plan, state, ring.number, revision)
    executions = greengrass.executions(thing)
    execution = _execution(executions, ring, carriers)
    reached = any(item.rollout == plan.id and item.epoch >= epoch for item in reports) if epoch else False
    taken = reached or (execution is not None and execution.status not in _NOT_TAKEN)
    return DeviceView(
        thing=thing,
        ring=ring.number,
        online=now_ms - heard_ms <= plan.limits.report_seconds * 1000,
        last_report_ms=report_ms,
        taken=taken,
        failed=_failure(execution),
        reports=reports,
        succeeded=execution is not None and execution.status in _SUCCEEDED,
        update_failed=_failure(_execution(executions, ring, _forward(state, ring.number))),
    )


def _with_component(plan: Plan, view: DeviceView, is_serving: bool) -> DeviceView:
    listed = {item.name: item for item in greengrass.installed(view.thing)}
    return replace(view, component=listed.get(plan.model), reports_due=is_serving)


def _asked(plan: Plan, state: State, ring: int, revision: Revision | None) -> tuple[int, frozenset[str]]:
    """The epoch that the rollout last asked of a ring, 0 for none, and the deployments that carry it."""
    wave = next((item for item in state.waves if item.ring == ring), None)
    if wave is None or not wave.is_reached:
        return 0, frozenset()
    if wave.put_back_deployment:
        epoch, carriers = state.put_back_epoch, {wave.put_back_deployment}
    else:
        epoch, carriers = wave.epoch, {wave.deployment}
    if revision is not None and revision.rollout == plan.id and revision.epoch == epoch:
        carriers.add(revision.deployment)  # another rollout's revision kept ours
    return epoch, frozenset(carriers - {""})


def _execution(executions: Iterable[Execution], ring: Ring, carriers: frozenset[str]) -> Execution | None:
    return next((item for item in executions if item.target == ring.arn and item.deployment in carriers), None)


def _forward(state: State, ring: int) -> frozenset[str]:
    return frozenset(wave.deployment for wave in state.waves if wave.ring == ring and wave.deployment)


def _failure(execution: Execution | None) -> str:
    """Why it failed, "" where it did not."""
    if execution is None or execution.status not in _FAILED:
        return ""
    return f"{execution.status}: {execution.reason or 'no reason given'}"


def _at_once(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    listed = list(items)
    if len(listed) < 2:
        return [function(item) for item in listed]
    with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(listed)), "hybridge-look") as pool:
        # Each in a copy of this context: it says which account is asked.
        running = [pool.submit(copy_context().run, function, item) for item in listed]
        return [future.result() for future in running]
