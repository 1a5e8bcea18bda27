"""See what a decision needs to see: the latest revision of every ring, and what devices say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
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

T = TypeVar("T")
R = TypeVar("R")


def observe(bucket: Bucket, plan: Plan, state: State, prefix: str, now_ms: int) -> Observation:
    """What is there now of a rollout's fleet.

    Args:
        prefix: of the fleet's components' names.

    Raises:
        Unavailable: the account does not answer.
    """
    component = names.ComponentNames(prefix).model(plan.model)
    rings = membership.rings(plan.fleet)
    found = _at_once(lambda ring: _revision(bucket, ring, component), rings)
    revisions = {ring.number: revision for ring, revision in zip(rings, found, strict=True) if revision is not None}
    devices = [(thing, ring) for ring in rings for thing in ring.devices]
    views = _at_once(lambda item: _view(plan, state, item[0], item[1], revisions.get(item[1].number), now_ms), devices)
    return Observation(tuple(views), revisions)


def revision_of(latest: Deployment, component: str, ours: bool) -> Revision:
    """What a deployment asks of one component. Pure."""
    wanted = latest.components.get(component)
    asked = json.loads(wanted.merge).get("hybridge") if wanted is not None and wanted.merge else None
    rollout, epoch = "", 0
    if isinstance(asked, dict):
        rollout, text = str(asked.get("rollout", "")), str(asked.get("epoch", ""))
        epoch = int(text) if text.isdecimal() else 0
    return Revision(latest.id, wanted.version if wanted else "", rollout, epoch, latest.status == CANCELLED, ours)


def _revision(bucket: Bucket, ring: Ring, component: str) -> Revision | None:
    """A ring's latest revision; None where others wrote it all the time that we looked.

    The deployment and the lease that says whose it is cannot be read at one moment, so a deployment counts as foreign
    only where the lease stayed the same while it was read.
    """
    before = leases.read(bucket, ring.group)
    for _ in range(READ_TRIES):
        latest = greengrass.latest_deployment(ring.arn)
        after = leases.read(bucket, ring.group)
        if latest is None:
            return Revision("", "", "", 0, ours=not after.deployment)
        if after.wrote(latest):
            return revision_of(latest, component, ours=True)
        if after == before:
            return revision_of(latest, component, ours=False)
        before = after
    return None


def _view(plan: Plan, state: State, thing: str, ring: Ring, revision: Revision | None, now_ms: int) -> DeviceView:
    core = greengrass.core_device(thing)
    try:
        last = heard(thing)
    except InvalidDocument:
        last = None  # what cannot be read says nothing, and silence never passes
    report_ms = last.at_ms if last else 0
    heard_ms = max(report_ms, core.reported_ms if core else 0)
    reports = tuple(item for item in last.report.models if item.model == plan.model) if last else ()
    epoch, carriers = _asked(plan, state, ring.number, revision)
    execution = _execution(greengrass.executions(thing), ring, carriers)
    reached = any(item.rollout == plan.id and item.epoch >= epoch for item in reports) if epoch else False
    taken = reached or (execution is not None and execution.status not in _NOT_TAKEN)
    failed = ""
    if execution is not None and execution.status in _FAILED:
        failed = f"{execution.status}: {execution.reason or 'no reason given'}"
    return DeviceView(
        thing=thing,
        ring=ring.number,
        online=now_ms - heard_ms <= plan.limits.report_seconds * 1000,
        last_report_ms=report_ms,
        taken=taken,
        failed=failed,
        reports=reports,
    )


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


def _at_once(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    listed = list(items)
    if len(listed) < 2:
        return [function(item) for item in listed]
    with ThreadPoolExecutor(min(CALLS_AT_ONCE, len(listed)), "hybridge-look") as pool:
        # Each in a copy of this context: it says which account is asked.
        running = [pool.submit(copy_context().run, function, item) for item in listed]
        return [future.result() for future in running]
