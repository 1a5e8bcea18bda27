"""States of a graph made elsewhere: which input follows which output, as somebody says it, found in the graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridge_cloud.compile.foreign_graph import Foreign
from hybridge_edge.contract.errors import PackageRefused, UsageError
from hybridge_edge.contract.state import State

_SAY = "Write INPUT=OUTPUT, or INPUT=OUTPUT:INITIAL, such as h=hn."


@dataclass(frozen=True, slots=True)
class StateWanted:
    """``input`` takes what ``output`` gave in the run before, and ``initial`` in every element at first."""

    input: str
    output: str
    initial: float = 0.0

    @classmethod
    def read(cls, text: str) -> StateWanted:
        """From INPUT=OUTPUT[:INITIAL]. Raises UsageError."""
        taken, equals, rest = text.partition("=")
        given, _, number = rest.rpartition(":") if ":" in rest else (rest, "", "0")
        try:
            initial = float(number)
        except ValueError:  # a colon in the output's own name
            given, initial = rest, 0.0
        if not equals or not taken or not given:
            raise UsageError(f"{text[:80]!r} names no state.", _SAY)
        return cls(taken, given, initial)


def as_states(wanted: Sequence[StateWanted], graphs: Mapping[str, Foreign]) -> tuple[State, ...]:
    """The manifest's entries; a free dimension of a state is the batch, and one sequence has one row.

    Raises:
        PackageRefused: no graph has such a pair, or the two are not of one type and shape.
    """
    return tuple(_state(one, graphs) for one in wanted)


def _state(wanted: StateWanted, graphs: Mapping[str, Foreign]) -> State:
    holding = [
        role for role, graph in graphs.items() if wanted.input in graph.inputs and wanted.output in graph.outputs
    ]
    if not holding:
        known = "; ".join(
            f"{graph.path} takes {', '.join(graph.inputs)} and gives {', '.join(graph.outputs)}"
            for graph in graphs.values()
        )
        raise PackageRefused(f"No graph takes {wanted.input!r} and gives {wanted.output!r}.", f"{known}.", step="load")
    graph = graphs[holding[0]]
    taken, given = graph.inputs[wanted.input], graph.outputs[wanted.output]
    if taken.shape is None:
        raise PackageRefused(f"{graph.path} states no shape of {wanted.input!r}.", "Export it with one.", step="load")
    shape = tuple(1 if size is None else size for size in taken.shape)
    fits = given.shape is None or (
        len(given.shape) == len(shape)
        and all(size in (None, want) for size, want in zip(given.shape, shape, strict=True))
    )
    if taken.datatype != given.datatype or not fits:
        raise PackageRefused(
            f"{graph.path}: {wanted.input!r} is {taken.datatype} of {list(shape)}, and {wanted.output!r} is "
            f"{given.datatype} of {['?' if size is None else size for size in given.shape or ()]}.",
            "A state's input and output are of one type and shape.",
            step="load",
        )
    return State(wanted.input, wanted.output, taken.datatype, shape, holding[0], wanted.initial)
