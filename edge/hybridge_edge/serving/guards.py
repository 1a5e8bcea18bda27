"""Holds a model's answers to the bounds its package states (manifest, ``guards``): two reductions an output.

What happens to an answer that breaks one is the guard's action: ``pass`` counts it; ``flag`` counts it and the response
carries the sentence as parameter ``guard``; ``refuse`` counts it and the caller gets FAILED_PRECONDITION with the
sentence instead of an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.expectations import ACTIONS, Guard
from hybridge_edge.engine import Array, Arrays

FLAG, REFUSE = "flag", "refuse"


class AnswerRefused(Refused):
    """The model answered and a guard does not let the answer out; not the caller's fault."""

    code = "ANSWER_REFUSED"


@dataclass(frozen=True, slots=True)
class Objection:
    """What a guard found, in one sentence, and what its package wants done about it: one of ACTIONS."""

    sentence: str
    action: str


def object_to(guards: tuple[Guard, ...], outputs: Arrays) -> Objection | None:
    """The strictest objection to an answer's outputs (whole batch), or None.

    Args:
        outputs: every guarded output by name, any shape, numbers or booleans.
    """
    worst: Objection | None = None
    for guard in guards:
        array = outputs[guard.output]
        if array.size == 0:
            continue
        # NaN comes through both reductions and fails both comparisons; bounds are finite, so infinities fail one.
        low, high = array.min(), array.max()
        if low >= guard.minimum and high <= guard.maximum:
            continue
        if worst is None or ACTIONS.index(guard.action) > ACTIONS.index(worst.action):
            worst = Objection(_sentence(guard, array, low, high), guard.action)
    return worst


def _sentence(guard: Guard, array: Array, low: object, high: object) -> str:
    count = int((~((array >= guard.minimum) & (array <= guard.maximum))).sum())
    bounds = f"[{guard.minimum:g}, {guard.maximum:g}]"
    return f"Output {guard.output!r} has {count} of {array.size} elements outside {bounds}: {low} to {high}."
