"""What an operator may ask of a rollout: pure functions of its state, each of which refuses where it makes no sense.

A command only writes the state; a controller does what follows from it.
"""

from __future__ import annotations

from dataclasses import replace

from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.state import State, Status, WaveState, WaveStatus
from hybridge_edge.contract.errors import Refused

_UNDER_WAY = frozenset({Status.RUNNING, Status.WAITING, Status.PAUSED})


def start(state: State, epoch: int, put_back_epoch: int, now_ms: int, shadow_epoch: int = 0) -> State:
    """Begin a planned rollout.

    Args:
        epoch, put_back_epoch: two of the fleet's, taken by this command, the second one the higher.
        shadow_epoch: one more, lower than both, where the plan has a shadow stage; else 0.
    """
    if state.status is not Status.PLANNED:
        raise _refused(state, "cannot be started", "Plan another one: hybridge rollout start MODEL@VERSION")
    if not 0 <= shadow_epoch < epoch < put_back_epoch:
        raise Refused(f"The epochs {epoch} and {put_back_epoch} of the rollout {state.id} do not rise.")
    return replace(
        state,
        status=Status.RUNNING,
        epoch=epoch,
        put_back_epoch=put_back_epoch,
        shadow_epoch=shadow_epoch,
        updated_at_ms=now_ms,
    )


def pause(state: State, now_ms: int) -> State:
    """Write nothing new, and withdraw the running deployment from devices that have not taken it."""
    if state.status is Status.PAUSED:
        return state
    if state.status not in (Status.RUNNING, Status.WAITING):
        raise _refused(state, "cannot be paused", "Only a rollout that is under way can.")
    waves = tuple(withdrawn(wave) for wave in state.waves)
    return replace(state, status=Status.PAUSED, waves=waves, reason="paused by an operator", updated_at_ms=now_ms)


def resume(state: State, now_ms: int) -> State:
    """Go on after a pause; the wave that was withdrawn is written again, and its times begin again."""
    if state.status in (Status.RUNNING, Status.WAITING):
        return state
    if state.status is not Status.PAUSED:
        raise _refused(state, "is not paused", "Only a paused rollout can be resumed.")
    waves = tuple(_written_again(wave, now_ms) for wave in state.waves)
    return replace(state, status=Status.RUNNING, waves=waves, reason="", updated_at_ms=now_ms)


def advance(state: State, now_ms: int) -> State:
    """Cut the rest of the running wave's bake. What a gate holds or fails stays held or failed."""
    running = next((wave for wave in state.waves if wave.status is WaveStatus.WRITTEN), None)
    if state.status not in _UNDER_WAY or running is None:
        raise _refused(state, "has no wave that bakes", "Only the bake of a running wave can be cut.")
    if running.advanced:
        return state
    return replace(state.with_wave(replace(running, advanced=True)), updated_at_ms=now_ms)


def approve(plan: Plan, state: State, ring: int | None, now_ms: int) -> State:
    """Let the rollout into a ring that waits for it.

    Args:
        ring: also one that does not wait yet; None for the one that waits now.
    """
    if state.status not in _UNDER_WAY and state.status is not Status.PLANNED:
        raise _refused(state, "asks for no approval", "It is not under way.")
    if ring is None:
        pending = [wave.ring for wave in state.waves if wave.status is WaveStatus.PENDING]
        if state.status is not Status.WAITING or not pending:
            raise _refused(state, "waits for no approval", "Name the ring to approve it beforehand.")
        ring = pending[0]
    if ring not in plan.limits.approve or ring not in {wave.ring for wave in plan.waves}:
        raise Refused(f"Ring {ring} of the rollout {plan.id} needs no approval.", "Its rollout.yaml says which do.")
    if ring in state.approved:
        return state
    status = Status.RUNNING if state.status is Status.WAITING else state.status
    approved = tuple(sorted((*state.approved, ring)))
    return replace(state, status=status, approved=approved, updated_at_ms=now_ms)


def abort(plan: Plan, state: State, now_ms: int, why: str = "aborted by an operator") -> State:
    """End a rollout that is under way, and put the version before back on every ring it reached.

    Asking again changes nothing. Where nothing was reached, or where there is no version before, it is STOPPED.
    """
    if state.status in (Status.PUTTING_BACK, Status.PUT_BACK, Status.STOPPED):
        return state
    if state.status is Status.SUCCEEDED:
        raise _refused(state, "is over", f"Take it back: hybridge rollout rollback {plan.title}")
    return put_back(plan, state, why, now_ms)


def rollback(plan: Plan, state: State, put_back_epoch: int, now_ms: int) -> State:
    """Put the version before back on every ring of a rollout that has succeeded.

    Args:
        put_back_epoch: a fresh one of the fleet's: the one taken at the start may be outrun by now.
    """
    if state.status in (Status.PUTTING_BACK, Status.PUT_BACK):
        return state
    if state.status is Status.STOPPED:
        raise _refused(state, "was stopped and holds nothing any more", "Roll out the version you want.")
    if state.status is not Status.SUCCEEDED:
        raise _refused(state, "is not over", f"End it: hybridge rollout abort {plan.title}")
    if plan.is_first:
        raise Refused(f"There is no version before {plan.title} to go back to.", "Roll out a repaired version.")
    if put_back_epoch <= max(state.epoch, state.put_back_epoch):
        raise Refused(f"The epoch {put_back_epoch} is not higher than those of the rollout {state.id}.")
    return put_back(plan, replace(state, put_back_epoch=put_back_epoch), "rolled back by an operator", now_ms)


def put_back(plan: Plan, state: State, reason: str, now_ms: int) -> State:
    """The state in which every reached ring is put back, or STOPPED where there is nothing to put back, or no ring."""
    state = replace(state, reason=reason, detected_at_ms=now_ms, updated_at_ms=now_ms)
    if not any(wave.is_reached for wave in state.waves):
        return replace(state, status=Status.STOPPED, reason=f"{reason}; no ring was reached")
    if plan.is_first:
        waves = tuple(_failed(wave) for wave in state.waves)
        why = (
            f"{reason}; there is no version before {plan.title} to put back, so devices that took it keep it until a "
            f"repaired version is rolled out"
        )
        return replace(state, status=Status.STOPPED, waves=waves, reason=why)
    return replace(
        state, status=Status.PUTTING_BACK, waves=tuple(replace(wave, cancel="") for wave in state.waves), exceptions=()
    )


def withdrawn(wave: WaveState) -> WaveState:
    """A wave under way whose deployment is to be withdrawn, where it has one that was not."""
    under_way = wave.status in (WaveStatus.WRITTEN, WaveStatus.FAILED)
    if under_way and wave.deployment and wave.deployment != wave.cancelled:
        return replace(wave, cancel=wave.deployment)
    return wave


def _failed(wave: WaveState) -> WaveState:
    return withdrawn(replace(wave, status=WaveStatus.FAILED)) if wave.is_reached else wave


def _written_again(wave: WaveState, now_ms: int) -> WaveState:
    if wave.status is not WaveStatus.WRITTEN:
        return wave
    if wave.deployment and wave.deployment in (wave.cancel, wave.cancelled):
        wave = replace(wave, deployment="")
    return replace(wave, written_at_ms=now_ms, settled_at_ms=0)


def _refused(state: State, what: str, remedy: str) -> Refused:
    return Refused(f"The rollout {state.id} is {state.status.value} and {what}.", remedy)
