"""What a controller is to do in the account. Each may be done any number of times, by any number of controllers.

The order is: decide, write the state conditionally, then act, then write the state with what came of it (`recorded`),
conditionally again. An act whose outcome was never recorded is decided again. Under a ring's lease, right before the
call that changes it, read the state again and ask `is_wanted`: whoever slept meanwhile must not write what nobody wants
any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.state import State, Status, WaveStatus
from hybridge_edge.contract.states import Mode


@dataclass(frozen=True, slots=True)
class WriteWave:
    """Write the ring's next revision with the model at ``version``."""

    ring: int
    version: str
    epoch: int
    mode: Mode = Mode.ACTIVATE


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdraw a deployment from devices that have not taken it."""

    ring: int
    deployment: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """Write the ring's next revision with the model at ``version``, the one before, at a higher epoch."""

    ring: int
    version: str
    epoch: int
    mode: Mode = Mode.ACTIVATE


Action = WriteWave | Cancel | PutBack
_MAY_BE_WRITTEN = frozenset({Status.RUNNING, Status.WAITING, Status.PAUSED})


def is_wanted(state: State, action: Action) -> bool:
    """Whether a state still asks for an action."""
    wave = state.wave(action.ring)
    if isinstance(action, Cancel):
        return wave.cancel == action.deployment
    if isinstance(action, WriteWave):
        written = wave.status is WaveStatus.WRITTEN and wave.epoch == action.epoch
        return state.status is Status.RUNNING and written and not wave.deployment and not wave.cancel
    return (
        state.status is Status.PUTTING_BACK
        and wave.is_reached
        and state.put_back_epoch == action.epoch
        and not wave.put_back_deployment
        and not wave.foreign
    )


def wanted(plan: Plan, state: State) -> tuple[Action, ...]:
    """Every action that a state asks for, so that whoever reads it can go on where another stopped."""
    possible: list[Action] = []
    for wave in state.waves:
        if wave.cancel:
            possible.append(Cancel(wave.ring, wave.cancel))
        possible.append(WriteWave(wave.ring, plan.version, wave.epoch, wave.mode))
        possible.append(PutBack(wave.ring, plan.previous_version, state.put_back_epoch))
    return tuple(action for action in possible if is_wanted(state, action))


def recorded(state: State, action: Action, deployment: str, now_ms: int) -> State:
    """The state with an action's outcome in it; as it was where the outcome is recorded already or not asked for.

    Args:
        deployment: the id of the one that carries a WriteWave or PutBack; not looked at for a Cancel.
    """
    wave = state.wave(action.ring)
    if isinstance(action, Cancel):
        if wave.cancel != action.deployment:
            return state
        wave = replace(wave, cancel="", cancelled=action.deployment)
    elif isinstance(action, WriteWave):
        if wave.deployment or not wave.is_reached or wave.epoch != action.epoch or state.status not in _MAY_BE_WRITTEN:
            return state  # a rollout that is being put back must see this revision as one to put back
        wave = replace(wave, deployment=deployment, written_at_ms=now_ms)
    else:
        if wave.put_back_deployment or state.put_back_epoch != action.epoch or state.status is not Status.PUTTING_BACK:
            return state
        wave = replace(wave, put_back_deployment=deployment, put_back_written_at_ms=now_ms)
    return replace(state.with_wave(wave), updated_at_ms=now_ms)
