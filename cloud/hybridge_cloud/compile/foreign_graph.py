"""ONNX files that were made elsewhere: read without running them, and changed as little as a package needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hybridge_edge import onnx_graph
from hybridge_edge.admission.lint import DATATYPES, STEP, lint, used_control_flow
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.contract.errors import PackageRefused, UsageError
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import readable
from hybridge_edge.onnx_wire import Malformed

MAX_BYTES = 2 * 1024**3
ENTERING = "_entering"
"""Ends the name under which a graph takes what its package's features hand on."""
_IR_VERSION, _OPSET = 10, 17
_SAVE_AGAIN = "Save it again with its own tools."


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; ``shape`` has None where a dimension is free, and is None where none is stated."""

    name: str
    datatype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that passed the policy of every device: its bytes, and what it takes and gives by name."""

    path: str
    content: bytes
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


def read_file(path: Path) -> bytes:
    """The bytes of an ONNX file. Raises UsageError where there is none, PackageRefused where it is too large."""
    try:
        size = path.stat().st_size
        if size >= MAX_BYTES:
            raise PackageRefused(
                f"{path.name} is {size:,} bytes; an ONNX file of one piece holds less than 2 GiB, and weights "
                "beside it are not taken.",
                "Make a smaller model, or store its weights at a lower precision.",
                step=STEP,
            )
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}.", "Name an ONNX file.") from None


def examine(path: str, content: bytes) -> Foreign:
    """What the file takes and gives, if a device would take it, its signature aside.

    Raises:
        PackageRefused: step lint: with the node or tensor that no device takes.
    """
    graph = _graph(path, content)
    initialised = {tensor.name for tensor in graph.initialisers}
    taken = (value for value in graph.inputs if value.name not in initialised)
    inputs = {value.name: _port(path, value, f"Fix it: --fix {value.name}=VALUE.") for value in taken}
    outputs = {value.name: _port(path, value, "Give it an axis of 1.") for value in graph.outputs}
    findings = lint(
        path, content, _stand_ins(inputs), _stand_ins(outputs), used_control_flow(content), readable()
    )  # its own signature, so that what is found is found in the rest
    for finding in findings:
        raise PackageRefused(finding.reason, finding.remedy, step=STEP)
    return Foreign(path, content, inputs, outputs)


def fix_inputs(path: str, content: bytes, fixed: Mapping[str, str]) -> bytes:
    """The graph with some inputs made constants: NAME to a number, or several with commas between.

    Raises:
        UsageError: there is no such input, or the numbers do not fill it.
    """
    if not fixed:
        return content
    _graph(path, content)
    model = onnx.load_from_string(content)
    inputs = {value.name: value for value in model.graph.input}
    for name, text in fixed.items():
        if name not in inputs:
            raise UsageError(f"{path} has no input {name!r} to fix.", f"Its inputs: {', '.join(inputs)}.")
        kind = inputs[name].type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [dimension.dim_value for dimension in kind.shape.dim]
        try:
            value = np.array([float(part) for part in text.split(",")]).astype(dtype).reshape(shape)
        except ValueError:
            raise UsageError(
                f"{text[:40]!r} does not fill input {name!r} of {path}, {dtype} of shape {shape}.",
                "Write as many numbers as it has elements, with commas between.",
            ) from None
        model.graph.input.remove(inputs[name])
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return bytes(model.SerializeToString(deterministic=True))


def with_entrance(content: bytes, names: Sequence[str]) -> bytes:
    """The graph, taking each of these inputs under NAME_entering: the same name could not stand on both sides of the
    features that hand it on."""
    model = onnx.load_from_string(content)
    for value in model.graph.input:
        if value.name in names:
            entering = value.name + ENTERING
            model.graph.node.insert(0, helper.make_node("Identity", [entering], [value.name], name=entering))
            value.name = entering
    return bytes(model.SerializeToString(deterministic=True))


def handing_on(inputs: Sequence[TensorSpec]) -> bytes:
    """Features that hand their inputs on, to a graph ``with_entrance``. The device knows such a graph and runs none."""
    taken, given, nodes = [], [], []
    for spec in inputs:
        kind = onnx.TensorProto.STRING
        if spec.datatype != BYTES:
            kind = helper.np_dtype_to_tensor_dtype(NUMPY_TYPES[spec.datatype])
        shape = ["batch" if size == -1 else size for size in spec.shape]
        taken.append(helper.make_tensor_value_info(spec.name, kind, shape))
        given.append(helper.make_tensor_value_info(spec.name + ENTERING, kind, shape))
        nodes.append(helper.make_node("Identity", [spec.name], [spec.name + ENTERING]))
    graph = helper.make_graph(nodes, "features", taken, given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    model.producer_name = ""
    return bytes(model.SerializeToString(deterministic=True))


def _graph(path: str, content: bytes) -> onnx_graph.Graph:
    try:
        return onnx_graph.read_model(content).graph
    except Malformed as error:
        raise PackageRefused(f"{path} {error}.", _SAVE_AGAIN, step=STEP) from None


def _port(path: str, value: onnx_graph.Value, if_scalar: str) -> Port:
    datatype = DATATYPES.get(value.element)
    if datatype is None:
        what = "no tensor" if value.element == 0 else f"of ONNX type {value.element}"
        raise PackageRefused(
            f"{path}: {value.name!r} is {what}, and the wire has no word for it.", "Export with other types.", step=STEP
        )
    if value.shape == ():
        raise PackageRefused(
            f"{path}: {value.name!r} is a scalar; a signature has tensors of 1 to 8 dimensions.", if_scalar, step=STEP
        )
    return Port(value.name, datatype, value.shape)


def _stand_ins(ports: Mapping[str, Port]) -> tuple[TensorSpec, ...]:
    """A signature that the graph agrees with, for everything but its shapes, which are looked at elsewhere."""
    return tuple(
        TensorSpec(one.name, one.datatype, tuple(size or 1 for size in one.shape) if one.shape else (1,))
        for one in ports.values()
    )
