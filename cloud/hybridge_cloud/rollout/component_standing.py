"""Where one device stands towards the version of a component that its ring is asked for.

The deployment's outcome comes first, then what the nucleus lists, then the server's own report after it. Greengrass'
SUCCEEDED means "handed over": a process was started. Nothing that a nucleus says is believed without that report where
a server of ours is on the device.
"""

from __future__ import annotations

from hybridge_cloud.aws.greengrass import InstalledComponent
from hybridge_cloud.rollout.baseline import active
from hybridge_cloud.rollout.observation import DeviceView
from hybridge_cloud.rollout.standing import MAX_REASON, Asked, End, Standing

UP = frozenset({"RUNNING", "FINISHED"})
BROKEN = "BROKEN"
SILENT_REPORTS = 2
"""Reports that may stay away before a server that has reported counts as broken: one may be late or lost."""


def component_standing(view: DeviceView, asked: Asked, report_seconds: int, now_ms: int) -> Standing:
    """Where a device stands now.

    Returns:
        DONE: it runs the version, and its server has reported since, with its models. REFUSED: the update failed there,
        and its nucleus put the version before back. FAILED: it has no healthy component. Others as of a model.
    """
    found = view.component
    is_right = found is not None and found.version == asked.version and found.state in UP
    if is_right and (view.succeeded or (asked.is_back and view.failed)):
        return _reporting(view, asked, report_seconds, now_ms)
    if view.failed:
        why = f"Greengrass: {view.failed[:MAX_REASON]}"
        if found is None:
            return Standing(view.thing, End.FAILED, f"{why}; it lists no {asked.component}", None)
        is_put_back = found.version != asked.version and found.state in UP and found.changed_ms > asked.since_ms
        if is_put_back:
            why = f"{why}; its nucleus put {found.version} back, which is {found.state}"
            return Standing(view.thing, End.REFUSED, why)
        return Standing(view.thing, End.FAILED, f"{why}; {found.version} is {found.state} there")
    if not view.succeeded:
        return _waiting(view, asked, report_seconds, now_ms)
    if found is None or found.version != asked.version:
        lists = f"{found.version} {found.state}" if found is not None else f"no {asked.component}"
        return Standing(view.thing, End.PENDING, f"has taken the deployment and lists {lists}")
    if found.state == BROKEN:
        return Standing(view.thing, End.FAILED, f"{found.version} is BROKEN: it started and did not stay up")
    return Standing(view.thing, End.PENDING, f"{found.version} is {found.state}")


def is_healthy(view: DeviceView, asked: Asked, since_ms: int) -> bool:
    """Whether a device has the component up, in whatever version, and its server reported after ``since_ms``."""
    found = view.component
    if found is None or found.state not in UP:
        return False
    return not view.reports_due or (
        view.last_report_ms > max(found.changed_ms, since_ms) and not _not_active(view, asked)
    )


def healthy_since_ms(view: DeviceView, since_ms: int) -> int:
    """The first sign of health that is known of a device which is healthy now, Unix time, ms."""
    changed_ms = view.component.changed_ms if view.component is not None else 0
    return max(since_ms, changed_ms, view.last_report_ms if view.reports_due else 0)


def last_sign_ms(view: DeviceView, asked: Asked, written_at_ms: int) -> int:
    """Until when at least a device that has lost its component was healthy, Unix time, ms.

    A deployment takes nothing away before it is written. A component that is up now may have reported after it came
    back, so its last report tells nothing of the time before; one that is down cannot have.
    """
    is_up = view.component is not None and view.component.state in UP
    if is_up and (not view.succeeded or _not_active(view, asked)):
        return written_at_ms
    return max(written_at_ms, view.last_report_ms)


def _reporting(view: DeviceView, asked: Asked, report_seconds: int, now_ms: int) -> Standing:
    """A device that runs the version: what its server says."""
    found = view.component
    assert found is not None
    runs = f"{found.version} is {found.state}"
    if not view.reports_due:
        return Standing(view.thing, End.DONE, runs)
    reported = active(view.reports)
    waited_ms = now_ms - found.changed_ms
    if view.last_report_ms <= found.changed_ms:
        if waited_ms > report_seconds * 1000:
            return Standing(view.thing, End.FAILED, f"{runs}, and its server said nothing for {waited_ms // 1000} s")
        return Standing(view.thing, End.PENDING, f"{runs}; its server has not reported since")
    silent_ms = now_ms - view.last_report_ms
    if silent_ms > SILENT_REPORTS * report_seconds * 1000:
        why = f"{runs}, reported, and its server said nothing for {silent_ms // 1000} s since"
        return Standing(view.thing, End.FAILED, why)
    if lost := _not_active(view, asked):
        why = f"{runs}, and its server does not report {', '.join(lost)} ACTIVE"
        return Standing(view.thing, End.FAILED if waited_ms > report_seconds * 1000 else End.PENDING, why)
    models = ", ".join(f"{item.model} {item.version}" for item in reported)
    return Standing(view.thing, End.DONE, f"{runs}; active: {models or 'no model'}", reports=reported)


def _not_active(view: DeviceView, asked: Asked) -> tuple[str, ...]:
    """Models that the device ran before and does not report ACTIVE now."""
    running = {item.model for item in active(view.reports)}
    expected = asked.baseline.expected(view.thing) if asked.baseline is not None else ()
    return tuple(model for model in expected if model not in running)


def _waiting(view: DeviceView, asked: Asked, report_seconds: int, now_ms: int) -> Standing:
    where = "has taken the deployment and not ended it" if view.taken else "has not taken the deployment"
    where += _lists(view.component)
    silent_for_ms = now_ms - max(view.last_report_ms, asked.since_ms)
    if silent_for_ms <= report_seconds * 1000:
        return Standing(view.thing, End.PENDING, where)
    silence = f"said nothing for {silent_for_ms // 1000} s"
    if view.online or view.taken:
        return Standing(view.thing, End.SILENT, f"{where}, and {silence}")
    return Standing(view.thing, End.OFFLINE, f"is offline: {where}, and {silence}")


def _lists(found: InstalledComponent | None) -> str:
    return f" (it lists {found.version} {found.state})" if found is not None else ""
