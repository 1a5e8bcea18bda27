"""Holds a model's answers to what its package states (manifest, ``guards``): two reductions an output.

What happens to an answer that breaks one is the guard's action: ``pass`` counts it; ``flag`` counts it and the response
carries the sentence as parameter ``guard``; ``refuse`` counts it and the caller gets FAILED_PRECONDITION with the
sentence instead of an answer.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from threading import Lock

import numpy

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
            worst = stricter(worst, Objection(_sentence(guard, array, low, high), guard.action))
    return worst


class Constancy:
    """Finds a model that answers the same whatever it is asked; for guards with ``constant_after``.

    Shared by the threads that answer for one resident.
    """

    def __init__(self, guards: tuple[Guard, ...]) -> None:
        self._guards = tuple(guard for guard in guards if guard.constant_after)
        self._lock = Lock()
        self._question = 0
        self._answers: dict[str, int] = {}
        self._repeated: dict[str, int] = {}

    def object_to(self, inputs: Arrays, outputs: Arrays) -> Objection | None:
        """The strictest objection to one more answer, or None. The same question asked again says nothing."""
        if not self._guards:
            return None
        question = 0
        for name in sorted(inputs):
            question = _checksum(inputs[name], question)
        answers = {guard.output: _checksum(outputs[guard.output], 0) for guard in self._guards}
        worst: Objection | None = None
        with self._lock:
            new = question != self._question
            self._question = question
            for guard in self._guards:
                same = answers[guard.output] == self._answers.get(guard.output)
                self._answers[guard.output] = answers[guard.output]
                repeated = (self._repeated.get(guard.output, 0) + new) if same else 0
                self._repeated[guard.output] = repeated
                if repeated >= guard.constant_after:
                    sentence = f"Output {guard.output!r} was the same in {repeated + 1} answers to different inputs."
                    worst = stricter(worst, Objection(sentence, guard.action))
        return worst


def stricter(one: Objection | None, other: Objection | None) -> Objection | None:
    """Whichever asks for more, the first of equals."""
    if one is None or other is None:
        return one or other
    return other if ACTIONS.index(other.action) > ACTIONS.index(one.action) else one


def _checksum(array: Array, start: int) -> int:
    if array.dtype.hasobject:
        return zlib.crc32(b"\0".join(array.ravel().tolist()), start)
    if array.dtype.kind == "f":
        array = array + 0.0  # -0.0 is 0.0
    return zlib.crc32(numpy.ascontiguousarray(array).data, start)


def _sentence(guard: Guard, array: Array, low: object, high: object) -> str:
    count = int((~((array >= guard.minimum) & (array <= guard.maximum))).sum())
    bounds = f"[{guard.minimum:g}, {guard.maximum:g}]"
    return f"Output {guard.output!r} has {count} of {array.size} elements outside {bounds}: {low} to {high}."
