"""Which command an operator may give in which state: every pair of the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hybridge_cloud.rollout import commands
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.simulate import Scenario, Simulation
from hybridge_cloud.rollout.state import State, Status, planned
from hybridge_edge.contract.errors import Refused

T0 = 1_000_000


_COMMANDS: dict[str, Callable[[Plan, State], State]] = {
    "start": lambda plan, state: commands.start(state, 10, 11, T0),
    "pause": lambda plan, state: commands.pause(state, T0),
    "resume": lambda plan, state: commands.resume(state, T0),
    "advance": lambda plan, state: commands.advance(state, T0),
    "approve": lambda plan, state: commands.approve(plan, state, None, T0),
    "abort": lambda plan, state: commands.abort(plan, state, T0),
    "rollback": lambda plan, state: commands.rollback(plan, state, 99, T0),
}
_ALLOWED = {
    Status.PLANNED: {"start", "abort"},
    Status.RUNNING: {"pause", "resume", "advance", "abort"},
    Status.PAUSED: {"pause", "resume", "advance", "abort"},
    Status.WAITING: {"pause", "resume", "advance", "abort"},
    Status.PUTTING_BACK: {"abort", "rollback"},
    Status.SUCCEEDED: {"rollback"},
    Status.PUT_BACK: {"abort", "rollback"},
    Status.STOPPED: {"abort"},
}


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("name", list(_COMMANDS))
def test_a_command_refuses_with_a_sentence_where_it_makes_no_sense(status: Status, name: str) -> None:
    simulation = Simulation(Scenario(), 0)
    simulation.run(lambda now: bool(now.state.waves[0].deployment))
    plan = simulation.plan
    state = planned(plan) if status is Status.PLANNED else replace(simulation.state, status=status)
    if name in _ALLOWED[status]:
        assert _COMMANDS[name](plan, state)
        return
    with pytest.raises(Refused) as refusal:
        _COMMANDS[name](plan, state)
    assert refusal.value.message.endswith(".")
    assert refusal.value.remedy
