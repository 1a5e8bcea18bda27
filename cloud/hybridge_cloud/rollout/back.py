"""Putting back: every ring that was reached gets the version before at a higher epoch, and every device an end."""

from __future__ import annotations

from dataclasses import replace

from hybridge_cloud.rollout import gap
from hybridge_cloud.rollout.observation import Observation
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.revisions import FOREIGN_REVISION, foreign_ring
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.standings import asked_back, standings
from hybridge_cloud.rollout.state import DeviceException, State, Status, WaveState, WaveStatus


def go_back(plan: Plan, state: State, observation: Observation, now_ms: int, audit: list[str]) -> State:
    """One look at a rollout that is being put back.

    A ring that somebody else has written meanwhile is left alone, and the others are put back all the same. A device
    that neither comes back nor says anything within the limits is listed, and converges when it returns.
    """
    while (found := foreign_ring(plan, state, observation)) is not None:
        audit.append(f"{FOREIGN_REVISION}: the latest deployment of ring {found[0]}, {found[1]}, is not ours")
        state = state.with_wave(replace(state.wave(found[0]), foreign=found[1] or "none"))
    exceptions: list[DeviceException] = []
    for wave in state.waves:
        if not wave.is_reached or wave.foreign:
            continue
        asked = asked_back(plan, state, wave, wave.put_back_written_at_ms or now_ms)
        seen = standings(
            plan.wave(wave.ring).devices, wave.ring, observation, asked, plan.limits.report_seconds, now_ms
        )
        if plan.is_component:
            state = gap.followed(state, wave, seen, observation, asked, audit)
        exceptions.extend(DeviceException(item.thing, item.why) for item in seen if item.end is not End.DONE)
        if wave.status is WaveStatus.PUT_BACK and not wave.put_back_deployment:
            state = state.with_wave(replace(wave, status=WaveStatus.FAILED))
        elif wave.status is not WaveStatus.PUT_BACK and _is_settled(plan, wave, seen, now_ms):
            back = sum(item.end is End.DONE for item in seen)
            audit.append(f"ring {wave.ring} is put back: {back} of {len(seen)} devices run {plan.previous_version}")
            state = state.with_wave(replace(wave, status=WaveStatus.PUT_BACK))
    state = replace(state, exceptions=tuple(exceptions))
    reached = [wave for wave in state.waves if wave.is_reached]
    if not all(wave.status is WaveStatus.PUT_BACK or wave.foreign for wave in reached):
        return state
    if foreign := [wave for wave in reached if wave.foreign]:
        rings = ", ".join(f"ring {wave.ring} by {wave.foreign}" for wave in foreign)
        reason = f"{state.reason}; {FOREIGN_REVISION}: left alone {rings}"
        return replace(state, status=Status.STOPPED, reason=reason, put_back_at_ms=now_ms)
    return replace(state, status=Status.PUT_BACK, put_back_at_ms=now_ms)


def _is_settled(plan: Plan, wave: WaveState, seen: tuple[Standing, ...], now_ms: int) -> bool:
    if not wave.put_back_deployment:
        return False
    late = now_ms - wave.put_back_written_at_ms > plan.limits.deadline_seconds * 1000
    return late or all(item.end is not End.PENDING for item in seen)
