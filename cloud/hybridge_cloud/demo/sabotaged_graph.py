"""What ``sabotage`` does to a graph: put its classes in another order, or give it work that changes nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hybridge_cloud.training.graph import Graph
from hybridge_cloud.training.task import Arrays
from hybridge_edge.contract.errors import Refused

WIDTH = 256
"""Columns of the matrix that is multiplied with; a power of 4, so that its entries are exact."""
FIRST_MULTIPLICATIONS = 64
MAX_MULTIPLICATIONS = 16_384
MARGIN = 1.25
"""The work is laid out for so many times what was asked for: a device's speed is not this machine's."""
ROUNDS = 31
TRIES = 6
_PREFIX = "sabotage/"


@dataclass(frozen=True, slots=True)
class Work:
    """How many multiplications, and (rows, how many times as long they made the package take)."""

    multiplications: int
    ratios: tuple[tuple[int, float], ...]


def with_classes_in_order(model_onnx: bytes, output: str, order: Sequence[int]) -> bytes:
    """A graph whose ``output`` (rows, ..., classes) has at class i what was at class ``order[i]``."""
    model = onnx.load_model_from_string(model_onnx)
    before = _free(model.graph, output)
    model.graph.initializer.append(numpy_helper.from_array(np.array(order, np.int64), _PREFIX + "order"))
    model.graph.node.append(helper.make_node("Gather", [before, _PREFIX + "order"], [output], axis=-1))
    return _checked(model)


def with_work(model_onnx: bytes, multiplications: int) -> bytes:
    """A graph that answers bit for bit the same after so many multiplications of (rows, WIDTH) with (WIDTH, WIDTH).

    They start from the input, so that no optimiser can do them beforehand, and end in max(tanh(x) - 2, 0), which is 0
    and which no optimiser knows to be 0; that is added to the first output.

    Raises:
        Refused: the first input and the first output are not both float32.
    """
    model = onnx.load_model_from_string(model_onnx)
    graph = model.graph
    given, output = graph.input[0], graph.output[0]
    if {value.type.tensor_type.elem_type for value in (given, output)} != {onnx.TensorProto.FLOAT}:
        raise Refused("Only a model of float32 can be made slow.")
    dimensions = len(output.type.tensor_type.shape.dim)
    name = output.name
    before = _free(graph, name)
    constants: dict[str, NDArray[Any]] = {
        "matrix": _hadamard(WIDTH),
        "row": np.ones((1, WIDTH), np.float32),
        "two": np.array(2, np.float32),
        "axis": np.array([1], np.int64),
        "shape": np.array([-1] + [1] * (dimensions - 1), np.int64),
    }
    for constant, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(array, _PREFIX + constant))
    chain = [f"{_PREFIX}{index}" for index in range(multiplications + 1)]
    graph.node.extend(
        [
            _node("Flatten", [given.name], "flat", axis=1),
            _node("ReduceMean", [_PREFIX + "flat", _PREFIX + "axis"], "mean", keepdims=1),
            _node("Tanh", [_PREFIX + "mean"], "seed"),
            _node("MatMul", [_PREFIX + "seed", _PREFIX + "row"], "0"),
        ]
    )
    for source, target in pairwise(chain):
        graph.node.append(helper.make_node("MatMul", [source, _PREFIX + "matrix"], [target]))
    graph.node.extend(
        [
            _node("ReduceMean", [chain[-1], _PREFIX + "axis"], "end", keepdims=1),
            _node("Tanh", [_PREFIX + "end"], "below one"),
            _node("Sub", [_PREFIX + "below one", _PREFIX + "two"], "negative"),
            _node("Relu", [_PREFIX + "negative"], "zero"),
            _node("Reshape", [_PREFIX + "zero", _PREFIX + "shape"], "zeros"),
            helper.make_node("Add", [before, _PREFIX + "zeros"], [name]),
        ]
    )
    return _checked(model)


def calibrated_work(features_onnx: bytes, model_onnx: bytes, inputs: Arrays, max_batch: int, times: float) -> Work:
    """Find how many multiplications make features and model together take ``times`` as long, measured in turns here.

    Args:
        inputs: raw rows by name; the first row alone and the first ``max_batch`` together are measured.

    Raises:
        Refused: ``times`` is not above 1, or so much work was not reached with MAX_MULTIPLICATIONS.
    """
    if times <= 1:
        raise Refused(f"A slow model takes more than once as long, not {times:g} times.", "Give a higher --times.")
    features, plain = Graph(features_onnx), Graph(model_onnx)
    rows = min(max_batch, len(next(iter(inputs.values()))))
    pieces = [{name: array[:count] for name, array in inputs.items()} for count in sorted({1, rows})]
    multiplications, needed = FIRST_MULTIPLICATIONS, times * MARGIN
    for _ in range(TRIES):
        slowed = Graph(with_work(model_onnx, multiplications))
        times_taken = [_in_turns(features, (plain, slowed), piece) for piece in pieces]
        found = [after / before for before, after in times_taken]
        if min(found) >= times:
            counts = (len(next(iter(piece.values()))) for piece in pieces)
            return Work(multiplications, tuple(zip(counts, found, strict=True)))
        # So many times the work as the slowest to grow of the pieces lacks; what it costs is linear in its amount.
        factor = max((needed - 1) / max(ratio - 1, 0.01) for ratio in found)
        multiplications = min(MAX_MULTIPLICATIONS, ceil(multiplications * max(factor, MARGIN)))
    raise Refused(
        f"The package does not take {times:g} times as long with {multiplications} multiplications more.",
        "Try again on a machine that does nothing else.",
    )


def _in_turns(features: Graph, models: Sequence[Graph], inputs: Arrays) -> list[float]:
    """The median time of features and each model, nanoseconds, all measured in turns."""
    rows = len(next(iter(inputs.values())))
    taken: list[list[int]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for model, found in zip(models, taken, strict=True):
            start = perf_counter_ns()
            model.run(features.run(inputs, rows), rows)
            found.append(perf_counter_ns() - start)
    return [statistics.median(found) for found in taken]


def _free(graph: onnx.GraphProto, output: str) -> str:
    """Rename the tensor that is the graph's ``output``, so that a new node can give it; returns the new name."""
    before = _PREFIX + "before"
    producers = [node for node in graph.node if output in node.output]
    if not producers:
        raise Refused(f"No node of the model gives {output!r}.")
    for node in graph.node:
        node.input[:] = [before if name == output else name for name in node.input]
        node.output[:] = [before if name == output else name for name in node.output]
    return before


def _hadamard(width: int) -> NDArray[np.float32]:
    """A symmetric matrix that is its own inverse: however often one multiplies, nothing grows or vanishes."""
    matrix: NDArray[np.float32] = np.full((1, 1), width**-0.5, np.float32)
    while len(matrix) < width:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [_PREFIX + output], **attributes)


def _checked(model: onnx.ModelProto) -> bytes:
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
