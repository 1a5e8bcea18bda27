"""Follow a deployment on every device until each has a stated end, or the time is over."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from hybridge_cloud.aws import greengrass, iot
from hybridge_cloud.deploy import Deployed
from hybridge_cloud.fleet.record import FleetModel
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.states import PackageState

POLL_SECONDS = 1.0


class End(str, Enum):
    """How a deployment ended on one device. PENDING is none."""

    PENDING = "PENDING"
    DONE = "DONE"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True)
class DeviceEnd:
    """Where a device is, and why, in a few words."""

    thing: str
    ring: int
    end: End
    reason: str


def follow(
    deployed: Deployed, timeout_seconds: float, changed: Callable[[DeviceEnd], None] | None = None
) -> tuple[DeviceEnd, ...]:
    """Wait until every device of the deployed rings has a stated end.

    Args:
        changed: called whenever what is known of a device changes.

    Returns:
        One DeviceEnd a device, none of them PENDING: those without an end in time are TIMED_OUT where the device has
        taken the deployment, OFFLINE where it never did.
    """
    deadline = time.monotonic() + timeout_seconds
    known: dict[str, DeviceEnd] = {}
    while True:
        for ring in deployed.rings:
            for thing in ring.ring.devices:
                before = known.get(thing)
                if before is not None and before.end is not End.PENDING:
                    continue
                now = look(thing, ring.ring.number, ring.id, deployed.models)
                if now != before and changed is not None:
                    changed(now)
                known[thing] = now
        pending = [item for item in known.values() if item.end is End.PENDING]
        if not pending:
            return tuple(known.values())
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_SECONDS)
    for item in pending:
        taken = not item.reason.startswith(_NOT_TAKEN)
        end = End.TIMED_OUT if taken else End.OFFLINE
        known[item.thing] = DeviceEnd(item.thing, item.ring, end, f"{item.reason} after {timeout_seconds:.0f} s")
        if changed is not None:
            changed(known[item.thing])
    return tuple(known.values())


_NOT_TAKEN = "the device has not taken the deployment"
_RUNNING = ("QUEUED", "IN_PROGRESS")
_SUCCEEDED = ("SUCCEEDED", "COMPLETED")


def look(thing: str, ring: int, deployment: str, models: Sequence[FleetModel]) -> DeviceEnd:
    """What is known now of one device: Greengrass' execution first, then the device's own report of each model."""
    execution = next((item for item in greengrass.executions(thing) if item.deployment == deployment), None)
    if execution is None or execution.status == "QUEUED":
        return DeviceEnd(thing, ring, End.PENDING, _NOT_TAKEN)
    if execution.status in _RUNNING:
        return DeviceEnd(thing, ring, End.PENDING, "Greengrass is deploying")
    if execution.status not in _SUCCEEDED:
        return DeviceEnd(thing, ring, End.FAILED, f"{execution.status}: {execution.reason or 'no reason given'}")
    try:
        report = reported(thing)
    except InvalidDocument as error:  # one device that reports nonsense must not end the watch over all others
        return DeviceEnd(thing, ring, End.PENDING, str(error))
    for model in models:
        end, reason = _judge(model, report)
        if end is not End.DONE:
            return DeviceEnd(thing, ring, end, reason)
    return DeviceEnd(thing, ring, End.DONE, ", ".join(f"{item.model} {item.version} active" for item in models))


def reported(thing: str) -> DeviceReport | None:
    """A device's own report from its named shadow, or None where it never reported.

    Raises:
        InvalidDocument: what lies there is no report.
    """
    found = heard(thing)
    return None if found is None else found.report


@dataclass(frozen=True, slots=True)
class Heard:
    """A device's last report, and when it came, by the account's clock: Unix time in milliseconds, 0 where unknown."""

    report: DeviceReport
    at_ms: int


def heard(thing: str) -> Heard | None:
    """As ``reported``, with the time: a shadow keeps, in whole seconds, when each of its fields was written."""
    document = iot.named_shadow(thing)
    if document is None:
        return None
    try:
        found = json.loads(document)
        state = found["state"]["reported"]
        written = found.get("metadata", {}).get("reported", {}).get("sequence", {})
        at_ms = int(written.get("timestamp", 0)) * 1000
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InvalidDocument(f"The shadow of {thing!r} holds no report.", "Look at the server's log there.") from None
    report = DeviceReport.from_bytes(canonical(state))
    if report.thing != thing:
        raise InvalidDocument(f"The shadow of {thing!r} holds a report of {report.thing!r}.", "Look at its policies.")
    return Heard(report, at_ms)


def _judge(model: FleetModel, report: DeviceReport | None) -> tuple[End, str]:
    """Where a model is, by the device's report: it may name the version that serves and the one that was refused."""
    found = [item for item in report.models if item.model == model.model] if report else []
    if not found:
        return End.PENDING, f"no report of {model.model} yet"
    heard = max(item.epoch for item in found)
    said = "; ".join(_sentence(item) for item in found)
    if heard < model.epoch:
        return End.PENDING, f"the last report is of epoch {heard}: {said}"
    ours = next((item for item in found if item.digest == model.digest), None)
    if ours is not None and ours.state is PackageState.ACTIVE:
        return End.DONE, ""
    if ours is not None and ours.state in (PackageState.REFUSED, PackageState.QUARANTINED):
        return End.REFUSED, said
    return (End.FAILED, f"superseded by epoch {heard}: {said}") if heard > model.epoch else (End.PENDING, said)


def _sentence(report: ModelReport) -> str:
    reason = f" ({report.reason})" if report.reason else ""
    return f"{report.model} {report.version} is {report.state.value}{reason}"
