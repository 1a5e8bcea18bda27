"""What a model keeps between the requests of one sequence: tensors that a run gives and the next run takes.

Callers neither send nor receive them, so they stand beside a manifest's signature and not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.tensors import ITEM_BYTES, MAX_DIMENSIONS, TensorSpec, datatype

FEATURES, MODEL = "features", "model"
GRAPHS = (FEATURES, MODEL)
MAX_STATES = 16
MAX_STATE_BYTES = 64 * 1024 * 1024
"""Of all states of one sequence."""
_LARGEST_FLOAT = {"FP16": 65504.0, "FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}


@dataclass(frozen=True, slots=True)
class State:
    """One tensor that is kept: input ``input`` of a graph takes what its output ``output`` gave in the run before.

    Attributes:
        graph: whose input and output they are, "features" or "model".
        shape: of one sequence, every dimension a number. initial: every element's value when a sequence begins.
    """

    input: str
    output: str
    datatype: str
    shape: tuple[int, ...]
    graph: str = MODEL
    initial: float = 0.0

    def __post_init__(self) -> None:
        datatype(self.datatype)
        if not 1 <= len(self.input) <= 128 or not 1 <= len(self.output) <= 128:
            raise InvalidDocument("The tensors of a state have names of 1 to 128 characters.")
        if self.graph not in GRAPHS:
            raise InvalidDocument(f"State {self.input!r} is of graph {self.graph[:20]!r}, which is none of {GRAPHS}.")
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or any(size < 1 for size in self.shape):
            raise InvalidDocument(
                f"State {self.input!r} has shape {list(self.shape)}.",
                f"Write 1 to {MAX_DIMENSIONS} positive dimensions: a state is one sequence's own.",
            )
        if self.size > MAX_STATE_BYTES:
            raise InvalidDocument(f"State {self.input!r} takes {self.size} bytes; {MAX_STATE_BYTES} are allowed.")
        if not _holds(self.datatype, self.initial):
            raise InvalidDocument(f"{self.datatype} has no value {self.initial:g}, with which {self.input!r} begins.")

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * ITEM_BYTES[self.datatype]

    def to_json(self) -> dict[str, object]:
        return {
            "input": self.input,
            "output": self.output,
            "datatype": self.datatype,
            "shape": list(self.shape),
            "graph": self.graph,
            "initial": float(self.initial),
        }

    @classmethod
    def read(cls, reader: Reader) -> State:
        return cls(
            reader.text("input"),
            reader.text("output"),
            reader.text("datatype"),
            reader.integers("shape"),
            reader.text("graph"),
            reader.number("initial"),
        )


def _holds(kind: str, value: float) -> bool:
    """Whether a datatype has that value."""
    if kind in _LARGEST_FLOAT:
        return abs(value) <= _LARGEST_FLOAT[kind]
    if not value.is_integer():
        return False
    if kind == "BOOL":
        return value in (0.0, 1.0)
    bits = ITEM_BYTES[kind] * 8
    unsigned = kind.startswith("U")
    low, high = (0, 1 << bits) if unsigned else (-(1 << bits - 1), 1 << bits - 1)
    return low <= int(value) < high


def inputs_of(states: Sequence[State], graph: str) -> tuple[TensorSpec, ...]:
    """What a graph takes besides its signature."""
    return tuple(TensorSpec(one.input, one.datatype, one.shape) for one in states if one.graph == graph)


def outputs_of(states: Sequence[State], graph: str) -> tuple[TensorSpec, ...]:
    """What a graph gives besides its signature."""
    return tuple(TensorSpec(one.output, one.datatype, one.shape) for one in states if one.graph == graph)


def check_states(
    name: str,
    states: Sequence[State],
    inputs: Sequence[TensorSpec],
    features: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch: int,
) -> None:
    """Whether they go with the rest of a manifest. Raises InvalidDocument."""
    if not states:
        return
    if max_batch != 1:
        raise InvalidDocument(
            f"The manifest of {name!r} declares states and max_batch {max_batch}.",
            "Write 1: each sequence has a state of its own, so a request has one row.",
        )
    if len(states) > MAX_STATES or sum(one.size for one in states) > MAX_STATE_BYTES:
        raise InvalidDocument(
            f"The states of {name!r} are more than {MAX_STATES}, or take more than {MAX_STATE_BYTES} bytes."
        )
    if len({one.input for one in states}) != len(states):
        raise InvalidDocument(f"The manifest of {name!r} declares a state twice.")
    for graph, taken, given in ((FEATURES, inputs, features), (MODEL, features, outputs)):
        for specs, more in ((taken, inputs_of(states, graph)), (given, outputs_of(states, graph))):
            names = [spec.name for spec in (*specs, *more)]
            if len(set(names)) != len(names):
                raise InvalidDocument(
                    f"A state of {name!r} has the name of another tensor of its graph.",
                    "A state is no part of the signature; give an output that callers shall see a name of its own.",
                )
