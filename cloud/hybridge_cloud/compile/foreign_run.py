"""The golden inputs of a package made elsewhere, run for the first time: what they give, and what is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hybridge_cloud.compile.foreign_graph import Foreign
from hybridge_cloud.compile.layout import PROVIDERS
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.state import FEATURES, MODEL, State
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engines.onnx import initial_value

Arrays = Mapping[str, NDArray[Any]]
GOLDEN, MISMATCH = "golden", "load"
"""Steps of a refusal, as a device names them."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What the golden inputs gave: the tensors of each request of a sequence, or of the one request there is.

    ``free`` are the outputs whose first dimension the runtime finds free; a file may call one so that is not.
    """

    features: list[Arrays]
    outputs: list[Arrays]
    free: frozenset[str]


def run(features: Foreign, model: Foreign, states: Sequence[State], requests: Sequence[Arrays]) -> Ran:
    """The golden requests through both graphs, each after the one before."""
    sessions = {FEATURES: _session(features), MODEL: _session(model)}
    kept = {one.input: initial_value(one) for one in states}
    nodes = [node for session in sessions.values() for node in session.get_outputs()]
    ran = Ran([], [], frozenset(node.name for node in nodes if node.shape and not isinstance(node.shape[0], int)))
    for number, request in enumerate(requests):
        given: Arrays = request
        for graph, found in ((FEATURES, ran.features), (MODEL, ran.outputs)):
            its = [one for one in states if one.graph == graph]
            session = sessions[graph]
            outputs = [node.name for node in session.get_outputs()]
            fed = {**given, **{one.input: kept[one.input] for one in its}}
            try:
                values = dict(zip(outputs, session.run(outputs, fed), strict=True))
            except Exception as error:  # onnxruntime raises a dozen classes with no common root of its own
                reason = str(error).strip().split("\n", 1)[0][:300]
                raise PackageRefused(
                    f"The golden inputs cannot be run: {reason}", "Give what the model takes.", step=GOLDEN
                ) from None
            _refuse_strange(values, number, stepped=bool(states))
            for one in its:
                kept[one.input] = _kept(one, values.pop(one.output))
            given = values
            found.append(values)
    return ran


def _session(graph: Foreign) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(graph.content, options, providers=list(PROVIDERS))
    except Exception as error:  # as above
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise PackageRefused(f"{graph.path} cannot be loaded: {reason}", "Export it again.", step=MISMATCH) from None


def _refuse_strange(values: Mapping[str, Any], number: int, *, stepped: bool) -> None:
    for name, array in values.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        row = int(np.argwhere(~np.isfinite(array))[0][0]) if array.ndim else 0
        where = f"step {number}" if stepped else f"row {row}"
        raise PackageRefused(
            f"The golden inputs give NaN or infinity: {name!r}, first in {where}.",
            "Look at that input; a model that overflows needs another precision.",
            step=GOLDEN,
        )


def _kept(state: State, value: Any) -> Any:
    if value.shape != state.shape:
        raise PackageRefused(
            f"State {state.input!r} begins with shape {list(state.shape)} and is {list(value.shape)} after one step.",
            "A state keeps its shape.",
            step=GOLDEN,
        )
    return value


def specs_of(graph: Foreign, arrays: Arrays, order: Sequence[str], free: Collection[str]) -> tuple[TensorSpec, ...]:
    """The signature of what a graph gave."""
    made = []
    for name in order:
        array = arrays[name]
        shape = (-1, *array.shape[1:]) if name in free else tuple(array.shape)
        made.append(TensorSpec(name, graph.outputs[name].datatype, shape))
    return tuple(made)


def compare(expected: Arrays, answers: Arrays, rtol: float, atol: float) -> None:
    """With the outputs that the golden file brings, where it brings any."""
    for name, want in expected.items():
        if name not in answers:
            raise PackageRefused(
                f"The golden file has {name!r}, which is no input and no output; outputs: {', '.join(answers)}.",
                "Leave it out.",
                step=MISMATCH,
            )
        got = answers[name]
        if got.size == want.size and got.shape[:1] == want.shape[:1]:
            want = want.reshape(got.shape)  # an axis of 1 more or less
        if got.shape != want.shape or got.dtype != want.dtype:
            raise PackageRefused(
                f"Output {name!r} is {got.dtype} {list(got.shape)}; the golden file has {want.dtype} "
                f"{list(want.shape)}.",
                "Save it as the model gives it.",
                step=GOLDEN,
            )
        close = np.array_equal(got, want) if got.dtype.hasobject else np.allclose(got, want, rtol, atol)
        if not close:
            largest = "" if got.dtype.hasobject else f" by up to {np.abs(got - want.astype(np.float64)).max():.3g}"
            raise PackageRefused(
                f"Output {name!r} differs{largest} from the golden file's.",
                "Compare where the model was made, or allow more with --rtol and --atol.",
                step=GOLDEN,
            )
