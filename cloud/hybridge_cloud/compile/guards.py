"""Guards of a package: the project's own, and for outputs that are probabilities the obvious one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.training.task import Arrays
from hybridge_edge.contract.errors import PackageRefused, Refused
from hybridge_edge.contract.expectations import Guard

_STEP = "guards"


def choose_guards(chosen: Sequence[Guard], outputs: Arrays, confidence_output: str) -> tuple[Guard, ...]:
    """The guards a package carries.

    An output that project.toml guards has those guards alone. Otherwise the confidence output gets [0, 1], to be
    flagged, if it gave nothing else on the held-out rows.

    Args:
        chosen: project.toml's. outputs: the graphs' answers to the held-out rows, by name, each (rows, ...).

    Raises:
        Refused: a guard of something that is not an output. PackageRefused: an answer to a held-out row breaks one.
    """
    unknown = sorted({guard.output for guard in chosen} - outputs.keys())
    if unknown:
        raise Refused(
            f"project.toml guards {unknown[0]!r}, which is not an output; the outputs are {', '.join(outputs)}.",
            "Correct [[guards]] in project.toml.",
        )
    guards = list(chosen)
    if confidence_output in outputs and not any(guard.output == confidence_output for guard in chosen):
        probabilities = Guard(confidence_output, 0.0, 1.0)
        guards += [] if broken(probabilities, outputs[confidence_output]) else [probabilities]
    for guard in guards:
        count = broken(guard, outputs[guard.output])
        if count:
            raise PackageRefused(
                f"{count} of {outputs[guard.output].size} held-out values of {guard.output!r} lie outside its guard, "
                f"{guard.minimum:g} to {guard.maximum:g}.",
                "Widen [[guards]] in project.toml, or correct the model.",
                step=_STEP,
            )
    return tuple(guards)


def broken(guard: Guard, array: NDArray[Any]) -> int:
    """How many elements a guard objects to; NaN and infinities are among them."""
    # Written so that a NaN counts as outside; an infinity is outside of every finite bound.
    inside = (array >= guard.minimum) & (array <= guard.maximum)
    return int(np.count_nonzero(~inside))
