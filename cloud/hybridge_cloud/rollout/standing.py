"""Where one device stands towards what the rollout asked of its ring: by its own report of this rollout and epoch.

A report of another rollout, or of an older epoch, says only that the device is alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hybridge_cloud.rollout.baseline import Baseline
from hybridge_cloud.rollout.observation import DeviceView
from hybridge_edge.contract.report import Evidence, ModelReport
from hybridge_edge.contract.states import Mode, PackageState

_BESIDE = frozenset({PackageState.ACTIVE, PackageState.SHADOW})
MAX_REASON = 200
"""Characters of a reason that somebody else gives."""


class End(str, Enum):
    """PENDING: not yet. SILENT: it was reached and says nothing. OFFLINE: it was not reached and says nothing."""

    PENDING = "PENDING"
    DONE = "DONE"
    REFUSED = "REFUSED"
    FAILED = "FAILED"
    SILENT = "SILENT"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a ring's devices are asked for: a package, by a rollout and epoch, since a time (Unix time, ms).

    Attributes:
        component, version: instead of the package, where a component is rolled out: its full name and the version.
        baseline: what its devices ran before. is_back: whether the version before is put back.
        mode: SHADOW where the package is to stand beside the version before.
    """

    digest: str
    rollout: str
    epoch: int
    since_ms: int
    component: str = ""
    version: str = ""
    baseline: Baseline | None = None
    is_back: bool = False
    mode: Mode = Mode.ACTIVATE

    @property
    def fulfilled(self) -> frozenset[PackageState]:
        """The states of the package in which the device does what is asked; one that answers is more than a shadow."""
        return frozenset({PackageState.ACTIVE} if self.mode is Mode.ACTIVATE else _BESIDE)


@dataclass(frozen=True, slots=True)
class Standing:
    """One device: its end, why, and what it measured of the package that was asked for.

    Attributes:
        reports: of every model that serves, where a component is rolled out.
    """

    thing: str
    end: End
    why: str
    evidence: Evidence | None = None
    reports: tuple[ModelReport, ...] = ()


def standing(view: DeviceView, asked: Asked, report_seconds: int, now_ms: int) -> Standing:
    """Where a device stands now."""
    silent_for_ms = now_ms - max(view.last_report_ms, asked.since_ms)
    is_silent = silent_for_ms > report_seconds * 1000
    silence = f"said nothing for {silent_for_ms // 1000} s"
    said = _of(view, asked)
    if said is not None and said.state in (PackageState.REFUSED, PackageState.QUARANTINED):
        reason = said.reason[:MAX_REASON] or "no reason given"
        return Standing(view.thing, End.REFUSED, f"{said.version} is {said.state.value}: {reason}", said.evidence)
    if view.failed:
        why = f"Greengrass: {view.failed[:MAX_REASON]}"
        return Standing(view.thing, End.FAILED, why, said.evidence if said else None)
    if said is not None:
        if is_silent:
            return Standing(view.thing, End.SILENT, f"was {said.state.value} and {silence}", said.evidence)
        if said.state in asked.fulfilled:
            return Standing(view.thing, End.DONE, f"{said.version} is {said.state.value}", said.evidence)
        return Standing(view.thing, End.PENDING, f"{said.version} is {said.state.value}", said.evidence)
    if not is_silent:
        return Standing(view.thing, End.PENDING, _where(view, asked))
    if view.online or view.taken or _heard(view, asked):
        return Standing(view.thing, End.SILENT, f"{_where(view, asked)}, and {silence}")
    return Standing(view.thing, End.OFFLINE, f"is offline: {_where(view, asked)}, and {silence}")


def has_obeyed(view: DeviceView, asked: Asked) -> bool:
    """Whether a device runs the package that was asked for, or has obeyed something newer since."""
    said = _of(view, asked)
    if said is not None and said.state in asked.fulfilled:
        return True
    return any(report.epoch > asked.epoch for report in view.reports)


def _of(view: DeviceView, asked: Asked) -> ModelReport | None:
    for report in view.reports:
        if report.digest == asked.digest and report.rollout == asked.rollout and report.epoch == asked.epoch:
            return report
    return None


def _heard(view: DeviceView, asked: Asked) -> bool:
    return any(report.rollout == asked.rollout and report.epoch == asked.epoch for report in view.reports)


def _where(view: DeviceView, asked: Asked) -> str:
    newest = max(view.reports, key=lambda report: report.epoch, default=None)
    if newest is not None and newest.epoch >= asked.epoch:
        return f"reports {newest.version} {newest.state.value} at epoch {newest.epoch} of {newest.rollout or 'nobody'}"
    last = f" (last report: {newest.version} {newest.state.value})" if newest is not None else ""
    return ("has taken the deployment and not reported it" if view.taken else "has not taken the deployment") + last
