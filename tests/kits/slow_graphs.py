"""Graphs whose work is in their input: a loop whose length is, and a tensor whose size is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from hybridge_edge.contract.manifest import Manifest


def _value(name: str, kind: int, shape: list | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes: list, channels: int, **constants: object) -> bytes:
    arrays = [numpy_helper.from_array(numpy.asarray(value), name) for name, value in constants.items()]
    mean, scores = (_value(name, TensorProto.FLOAT, ["batch", channels]) for name in ("mean", "scores"))
    graph = helper.make_graph(nodes, "graph", [mean], [scores], arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def looping(factor: float, channels: int, above: float | None = None) -> bytes:
    """Scores as the kit's model gives them, after as many trips round a loop as the largest mean says.

    With ``above`` no trip up to that mean, and hours beyond it.
    """
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["kept", "zero"], ["next"])],
        "body",
        [_value("trip", TensorProto.INT64, []), _value("go", TensorProto.BOOL, []), _value("kept", 1, None)],
        [_value("go_on", TensorProto.BOOL, []), _value("next", 1, None)],
    )
    nodes = [
        helper.make_node("Mul", ["mean", "factor"], ["scaled"]),
        helper.make_node("ReduceMax", ["mean"], ["most"], keepdims=0),
        helper.make_node("Sub", ["most", "calm"], ["beyond"]),
        helper.make_node("Mul", ["beyond", "steep"], ["length"]),
        helper.make_node("Cast", ["length"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "yes", "scaled"], ["scores"], body=body),
    ]
    calm, steep = (0.0, 1.0) if above is None else (above, 1e12)
    constants = {"factor": factor, "zero": 0.0, "calm": calm, "steep": steep}
    floats = {name: numpy.float32(value) for name, value in constants.items()}
    return _model(nodes, channels, yes=numpy.array(True), **floats)


def hungry(factor: float, channels: int) -> bytes:
    """Scores as the kit's model gives them, beside a tensor of as many floats as the largest mean says."""
    nodes = [
        helper.make_node("Mul", ["mean", "factor"], ["scaled"]),
        helper.make_node("ReduceMax", ["mean"], ["most"], keepdims=0),
        helper.make_node("Relu", ["most"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["size"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["size", "one"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["scaled", "sum"], ["scores"]),
    ]
    return _model(nodes, channels, factor=numpy.float32(factor), one=numpy.array([1], numpy.int64))


def with_loop(manifest: Manifest) -> Manifest:
    return replace(manifest, control_flow=("Loop",))
