"""What a rollout does next: a pure function of its plan, its state, what was observed, and the time.

The state that comes back is an intent: a controller writes it conditionally before it acts, and `action.wanted` gives
the same actions from it again, to whoever reads it, until their outcome is recorded.

    RUNNING --every wave passed--> SUCCEEDED
       |  \\--a ring needs approval--> WAITING --approve--> RUNNING
       |--a gate fails, abort--> PUTTING_BACK --every device back or listed--> PUT_BACK
       |--no version before, or a revision that is not ours--> STOPPED
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridge_cloud.rollout import component_gates, gap, gates, shadow_gates
from hybridge_cloud.rollout.action import Action, wanted
from hybridge_cloud.rollout.back import go_back
from hybridge_cloud.rollout.baseline import Baseline, measure
from hybridge_cloud.rollout.commands import put_back, withdrawn
from hybridge_cloud.rollout.observation import DeviceView, Observation
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.revisions import FOREIGN_REVISION, adopted, foreign_ring
from hybridge_cloud.rollout.standing import Asked, End, Standing
from hybridge_cloud.rollout.standings import asked_back, asked_forward, has_converged, standings
from hybridge_cloud.rollout.state import ENDED, DeviceException, State, Status, WaveState, WaveStatus
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.states import Mode

_WATCHED = frozenset({Status.RUNNING, Status.WAITING, Status.PAUSED})


@dataclass(frozen=True, slots=True)
class Decision:
    """The state to write, what to do once it is written, and a sentence for each thing that changed."""

    state: State
    actions: tuple[Action, ...]
    audit: tuple[str, ...]


def decide(plan: Plan, state: State, observation: Observation, now_ms: int) -> Decision:
    """One look at a rollout.

    Args:
        now_ms: Unix time, milliseconds, by the clock that `DeviceView.last_report_ms` is of.

    Returns:
        A Decision whose state is equal to ``state`` where there is nothing to write.
    """
    audit: list[str] = []
    after = adopted(plan, state, observation)
    if after.status in _WATCHED:
        after = _watch(plan, after, observation, now_ms, audit)
    if after.status is Status.PUTTING_BACK:
        after = go_back(plan, after, observation, now_ms, audit)
    elif after.status in ENDED:
        after = _followed(plan, after, observation, now_ms, audit)
    if after.status is not state.status:
        is_said = not after.reason or after.reason == state.reason or after.reason in audit
        audit.append(f"{state.status.value} -> {after.status.value}" + ("" if is_said else f": {after.reason}"))
    if after != state:
        after = replace(after, updated_at_ms=now_ms)
    return Decision(after, wanted(plan, after), tuple(audit))


def foreign(plan: Plan, state: State, ring: int, deployment: str, now_ms: int) -> Decision:
    """What follows when the writer finds a revision in a ring that is not ours. The ring is not touched any more."""
    if state.is_over or state.status is Status.PLANNED:
        return Decision(state, wanted(plan, state), ())
    reason = f"{FOREIGN_REVISION}: the latest deployment of ring {ring}, {deployment or 'none'}, is not ours"
    after = replace(state.with_wave(replace(state.wave(ring), foreign=deployment or "none")), updated_at_ms=now_ms)
    if state.status is not Status.PUTTING_BACK:
        waves = tuple(replace(wave, cancel="") for wave in after.waves)
        after = replace(after, status=Status.STOPPED, waves=waves, reason=reason)
        reason = f"{state.status.value} -> STOPPED: {reason}"
    return Decision(after, wanted(plan, after), (reason,))


def _watch(plan: Plan, state: State, observation: Observation, now_ms: int, audit: list[str]) -> State:
    """A rollout under way: judge every wave it has written, and go on where it may."""
    found = foreign_ring(plan, state, observation)
    if found is not None:
        decision = foreign(plan, state, found[0], found[1], now_ms)
        return decision.state
    exceptions: list[DeviceException] = []
    for wave in state.waves:
        if not wave.is_reached:
            continue
        asked = asked_forward(plan, wave, wave.written_at_ms)
        seen = standings(
            plan.wave(wave.ring).devices, wave.ring, observation, asked, plan.limits.report_seconds, now_ms
        )
        is_paused, is_running = state.status is Status.PAUSED, wave.status is WaveStatus.WRITTEN
        late = is_running and not is_paused
        late = late and now_ms - wave.written_at_ms > plan.limits.deadline_seconds * 1000
        verdicts = _judged(plan, wave, seen, late, now_ms) if seen else ()
        if plan.is_component:
            state = gap.followed(state, wave, seen, observation, asked, audit)
        failed = [verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL]
        if is_running:
            wave = replace(wave, verdicts=verdicts)
        if failed and not is_paused:
            state = state.with_wave(replace(wave, status=WaveStatus.FAILED, verdicts=verdicts))
            more = f"; {len(failed) - 1} gates more did not pass" if len(failed) > 1 else ""
            reason = f"ring {wave.ring} failed: {_sentence(failed[0])}{more}"
            audit.append(reason)
            return put_back(plan, state, reason, now_ms)
        state = state.with_wave(wave)
        if is_running:
            state = _bake(plan, state, wave, seen, now_ms, audit)
        expected = {End.DONE} if state.wave(wave.ring).status is WaveStatus.PASSED else {End.DONE, End.PENDING}
        exceptions.extend(DeviceException(item.thing, item.why) for item in seen if item.end not in expected)
    state = replace(state, exceptions=tuple(exceptions))
    if state.status is Status.PAUSED:
        # What was written before the pause was known is withdrawn as well.
        return replace(state, waves=tuple(withdrawn(wave) for wave in state.waves))
    return _next(plan, state, observation, now_ms, audit)


def _bake(plan: Plan, state: State, wave: WaveState, seen: Sequence[Standing], now_ms: int, audit: list[str]) -> State:
    """The running wave: it passes where each device has its end, its bake is over, and every gate passes."""
    unsettled = sum(item.end in (End.PENDING, End.SILENT) for item in seen)
    if not wave.settled_at_ms and not unsettled and wave.deployment:
        wave = replace(wave, settled_at_ms=now_ms)
        audit.append(f"ring {wave.ring}: every device that can be reached has answered")
    held = _held(plan, wave, seen, now_ms)
    if held or state.status is Status.PAUSED:
        reason = state.reason if state.status is Status.PAUSED else f"ring {wave.ring}: {held}"
        return replace(state.with_wave(wave), reason=reason)
    if wave.mode is Mode.SHADOW:
        audit.append(f"ring {wave.ring}: its shadow stage passed, {shadow_gates.said(wave.verdicts)}")
        answering = replace(
            wave, mode=Mode.ACTIVATE, epoch=state.epoch, before=wave.deployment, deployment="", written_at_ms=now_ms,
            settled_at_ms=0, advanced=False, verdicts=(), shadowed=wave.verdicts,
        )  # fmt: skip
        return replace(state.with_wave(answering), reason=f"ring {wave.ring}: its deployment is being written")
    audit.append(f"ring {wave.ring} passed")
    return replace(state.with_wave(replace(wave, status=WaveStatus.PASSED)), reason="")


def _held(plan: Plan, wave: WaveState, seen: Sequence[Standing], now_ms: int) -> str:
    """Why a wave cannot pass now, "" where it can."""
    if not wave.deployment:
        return "its deployment is being written"
    if not seen:
        return ""
    holding = [verdict for verdict in wave.verdicts if verdict.outcome is not Outcome.PASS]
    if holding:
        return _sentence(holding[0])
    left_ms = wave.settled_at_ms + plan.limits.bake_seconds * 1000 - now_ms
    if wave.settled_at_ms and left_ms > 0 and not wave.advanced and wave.mode is not Mode.SHADOW:
        return f"every gate passes; {-(-left_ms // 1000)} s of its bake are left"
    return ""


def _next(plan: Plan, state: State, observation: Observation, now_ms: int, audit: list[str]) -> State:
    """Begin the next wave where none is running and the ring may be written."""
    if any(wave.status is WaveStatus.WRITTEN for wave in state.waves):
        return state if state.status is Status.RUNNING else replace(state, status=Status.RUNNING)
    pending = next((wave for wave in state.waves if wave.status is WaveStatus.PENDING), None)
    if pending is None:
        return replace(state, status=Status.SUCCEEDED, reason=f"every wave of {plan.title} passed")
    if pending.ring in plan.limits.approve and pending.ring not in state.approved:
        reason = f"ring {pending.ring} needs an operator: hybridge rollout approve {plan.title} --fleet {plan.fleet}"
        return replace(state, status=Status.WAITING, reason=reason)
    revision = observation.revisions.get(pending.ring)
    if revision is None:
        reason = f"ring {pending.ring}: its latest deployment could not be read"
        return replace(state, status=Status.RUNNING, reason=reason)
    beside = plan.has_shadow(pending.ring)
    if beside and not state.shadow_epoch:
        raise InvalidDocument(f"The rollout {state.id} has a shadow stage and was started without an epoch for it.")
    epoch = state.shadow_epoch if beside else state.epoch
    begun = replace(
        pending,
        status=WaveStatus.WRITTEN,
        mode=Mode.SHADOW if beside else Mode.ACTIVATE,
        epoch=epoch,
        written_at_ms=now_ms,
        before=revision.deployment,
        baseline=_baseline(plan, pending.ring, observation),
    )
    how = " as a shadow" if beside else ""
    audit.append(f"ring {pending.ring} is being written with {plan.title}{how} at epoch {epoch}")
    reason = f"ring {pending.ring}: its deployment is being written"
    return replace(state.with_wave(begun), status=Status.RUNNING, reason=reason)


def _followed(plan: Plan, state: State, observation: Observation, now_ms: int, audit: list[str]) -> State:
    """A rollout that is over: take devices off the list as they return and converge.

    A first version that failed is withdrawn where its writer died before it could say what it had written.
    """
    if state.status is Status.STOPPED and not any(wave.foreign for wave in state.waves):
        state = replace(state, waves=tuple(withdrawn(wave) for wave in state.waves))
    left = []
    for item in state.exceptions:
        view = observation.view(item.thing)
        ring = next((wave.ring for wave in plan.waves if item.thing in wave.devices), view.ring if view else None)
        if view is not None and ring is not None and _has_converged(plan, state, view, ring, now_ms):
            audit.append(f"{item.thing} has converged")
        else:
            left.append(item)
    return replace(state, exceptions=tuple(left))


def _has_converged(plan: Plan, state: State, view: DeviceView, ring: int, now_ms: int) -> bool:
    return has_converged(view, _asked_at_end(plan, state, ring), plan.limits.report_seconds, now_ms)


def _asked_at_end(plan: Plan, state: State, ring: int) -> Asked:
    if state.status is Status.PUT_BACK:
        return asked_back(plan, state, state.wave(ring), 0)
    return asked_forward(plan, state.wave(ring), 0)


def _judged(plan: Plan, wave: WaveState, seen: Sequence[Standing], late: bool, now_ms: int) -> tuple[GateVerdict, ...]:
    if plan.is_component:
        return component_gates.judge(plan, wave.baseline or Baseline(), seen, late)
    if wave.mode is Mode.SHADOW and plan.limits.shadow is not None:
        waited = now_ms - wave.written_at_ms >= plan.limits.shadow.wait_seconds * 1000
        return shadow_gates.judge(plan, seen, late, waited)
    found = gates.judge(plan, seen, late)
    stood_in = {gate: shadow_gates.stood_in(wave.shadowed, gate) for gate in (Gate.LATENCY, Gate.PROBES)}
    return tuple(stood_in.get(verdict.gate) or verdict for verdict in found)


def _baseline(plan: Plan, ring: int, observation: Observation) -> Baseline | None:
    """What a ring's devices report before a component is changed there."""
    return measure(view for view in observation.devices if view.ring == ring) if plan.is_component else None


def _sentence(verdict: GateVerdict) -> str:
    return f"{verdict.gate.value}: {verdict.reason}"
