"""Graphs that a device must refuse to load, each with why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from hybridge_edge import engine, onnx_graph
from hybridge_edge.admission.lint import lint
from hybridge_edge.contract.tensors import TensorSpec

INPUTS = (TensorSpec("mean", "FP32", (-1, 3)),)
OUTPUTS = (TensorSpec("scores", "FP32", (-1, 3)),)
LIKE = numpy.ones((1, 3), numpy.float32)


def value(name: str, shape: tuple = ("batch", 3), element: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, element, shape)


def good(*nodes: Any, initialisers: tuple = (), functions: tuple = (), opsets: tuple = (("", 17),)) -> onnx.ModelProto:
    """mean -> Identity -> scores, with what else a test puts beside it."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["mean"], ["scores"]), *nodes], "g", [value("mean")], [value("scores")]
    )
    graph.initializer.extend(initialisers)
    opset_imports = [helper.make_opsetid(domain, version) for domain, version in opsets]
    return helper.make_model(graph, opset_imports=opset_imports, ir_version=10, functions=list(functions))


def findings(model: onnx.ModelProto | bytes, control_flow: tuple[str, ...] = ()) -> list[str]:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    found = lint("model.onnx", content, INPUTS, OUTPUTS, control_flow, engine.readable())
    assert all(one.reason.endswith(".") and one.remedy for one in found)
    return [one.reason for one in found]


def tensor(name: str = "weights") -> Any:
    return numpy_helper.from_array(numpy.ones(4, numpy.float32), name)


def external(location: str = "weights.bin", name: str = "weights", *, flag: bool = True) -> Any:
    found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    if flag:
        found.data_location = TensorProto.EXTERNAL
    entry = found.external_data.add()
    entry.key, entry.value = "location", location
    return found


def sparse(values: Any, indices: Any) -> Any:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[16])


def branch(*nodes: Any, initialisers: tuple = ()) -> Any:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["mean"], ["out"]), *nodes], "branch", [], [value("out")], list(initialisers)
    )
    return graph


def if_node(*nodes: Any, initialisers: tuple = ()) -> Any:
    return helper.make_node(
        "If",
        ["condition"],
        ["chosen"],
        name="choice",
        then_branch=branch(*nodes, initialisers=initialisers),
        else_branch=branch(),
    )


CONDITION = numpy_helper.from_array(numpy.array(True), "condition")


def loop_node() -> Any:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [value("number", (), TensorProto.INT64), value("go", (), TensorProto.BOOL)],
        [value("on", (), TensorProto.BOOL)],
    )
    return helper.make_node("Loop", ["", "condition"], [], name="for ever", body=body)


def scan_node() -> Any:
    body = helper.make_graph([helper.make_node("Identity", ["row"], ["one"])], "body", [value("row")], [value("one")])
    return helper.make_node("Scan", ["mean"], ["rows"], name="scan", body=body, num_scan_inputs=1)


def sequence_map() -> Any:
    body = helper.make_graph([helper.make_node("Identity", ["one"], ["same"])], "b", [value("one")], [value("same")])
    return helper.make_node("SequenceMap", ["sequence"], ["mapped"], name="map", body=body)


def function(name: str, *nodes: Any, domain: str = "ours") -> Any:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ours", 1)]
    return helper.make_function(domain, name, ["x"], ["y"], list(nodes), opsets)


def call(name: str, count: int = 1) -> list:
    return [helper.make_node(name, ["x"], ["y" if one == 0 else f"y{one}"], domain="ours") for one in range(count)]


OURS = (("", 17), ("ours", 1))


def nested(depth: int) -> Any:
    node = if_node()
    for _ in range(depth):
        node = if_node(node)
    return good(node, initialisers=(CONDITION,))


def claims(dims: list[int]) -> Any:
    return TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 16)


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def with_location_in_the_high_bits() -> bytes:
    """data_location = 2^32 + 1: protobuf drops the upper half of an enumeration, and EXTERNAL is left."""
    content = external(name="weights", flag=False).SerializeToString() + b"\x70" + varint(2**32 + 1)
    graph = good().graph.SerializeToString() + b"\x2a" + varint(len(content)) + content
    return b"\x08\x0a\x3a" + varint(len(graph)) + graph + bytes.fromhex("42040a001011")


def with_a_tag_beyond_32_bits() -> bytes:
    """A second graph under a tag that protobuf would cut down to the graph's own, 0x3a."""
    evil = good(initialisers=(external("/etc/shadow"),)).graph.SerializeToString()
    return good().SerializeToString() + varint(2**32 + 0x3A) + varint(len(evil)) + evil


def with_two_graphs() -> bytes:
    evil = good(initialisers=(external("/etc/shadow"),)).graph.SerializeToString()
    return good().SerializeToString() + b"\x3a" + varint(len(evil)) + evil


def changed(change: Callable[[Any], None]) -> onnx.ModelProto:
    model = good()
    change(model)
    return model


def trains(model: Any) -> None:
    model.training_info.add()


def of_type(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def of_shape(model: Any) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


def of_sequence(model: Any) -> None:
    model.graph.output[0].type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT


OUTSIDE = r"tensor '\w*' has its data outside of the file"
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto | bytes], str]] = {
    "external data": (lambda: good(initialisers=(external(),)), OUTSIDE),
    "external data above": (lambda: good(initialisers=(external("../../../etc/passwd"),)), OUTSIDE),
    "external data, absolute": (lambda: good(initialisers=(external("/etc/passwd"),)), OUTSIDE),
    "external data through a folder that may be a link": (lambda: good(initialisers=(external("a/b"),)), OUTSIDE),
    "external data at a memory address": (
        lambda: good(initialisers=(external("*/_ORT_MEM_ADDR_/*"),)),
        OUTSIDE,
    ),
    "external data without the flag": (lambda: good(initialisers=(external(flag=False),)), OUTSIDE),
    "the flag in bits that are dropped": (with_location_in_the_high_bits, OUTSIDE),
    "external values of a sparse initialiser": (
        lambda: changed(lambda model: model.graph.sparse_initializer.append(sparse(external(), tensor()))),
        OUTSIDE,
    ),
    "external indices of a sparse initialiser": (
        lambda: changed(lambda model: model.graph.sparse_initializer.append(sparse(tensor(), external()))),
        OUTSIDE,
    ),
    "external data in a constant": (
        lambda: good(helper.make_node("Constant", [], ["c"], value=external())),
        OUTSIDE,
    ),
    "external data in a sparse constant": (
        lambda: good(helper.make_node("Constant", [], ["c"], sparse_value=sparse(external(), tensor()))),
        OUTSIDE,
    ),
    "external data in a list of tensors": (
        lambda: good(helper.make_node("Identity", ["mean"], ["m"], values=[tensor(), external()])),
        OUTSIDE,
    ),
    "external data in a branch": (
        lambda: good(if_node(initialisers=(external(),)), initialisers=(CONDITION,)),
        OUTSIDE,
    ),
    "external data in a function": (
        lambda: good(
            functions=(function("f", helper.make_node("Constant", [], ["y"], value=external())),), opsets=OURS
        ),
        OUTSIDE,
    ),
    "an unknown domain": (lambda: good(helper.make_node("Run", ["mean"], ["r"], domain="evil")), "domain 'evil'"),
    "a training domain": (
        lambda: good(helper.make_node("Gradient", ["mean"], ["r"], domain="ai.onnx.preview.training")),
        r"domain 'ai\.onnx\.preview\.training'",
    ),
    "an unknown domain in a branch": (
        lambda: good(if_node(helper.make_node("Run", ["mean"], ["r"], domain="evil")), initialisers=(CONDITION,)),
        "domain 'evil'",
    ),
    "an unknown domain in a function": (
        lambda: good(functions=(function("f", helper.make_node("Run", ["x"], ["y"], domain="evil")),), opsets=OURS),
        "domain 'evil'",
    ),
    "an operator that reads files": (
        lambda: good(helper.make_node("EPContext", ["mean"], ["r"], domain="com.microsoft")),
        "EPContext.* reads files",
    ),
    "a graph in an operator of another domain": (
        lambda: good(helper.make_node("BeamSearch", ["mean"], ["r"], domain="com.microsoft", decoder=branch())),
        "carries a graph of its own",
    ),
    "a graph in an operator that has none": (
        lambda: good(helper.make_node("Identity", ["mean"], ["r"], hidden=branch())),
        "carries a graph of its own",
    ),
    "If": (lambda: good(if_node(), initialisers=(CONDITION,)), r"node 'choice' \(If\) is control flow"),
    "Loop": (lambda: good(loop_node(), initialisers=(CONDITION,)), r"node 'for ever' \(Loop\) is control flow"),
    "Scan": (lambda: good(scan_node()), r"\(Scan\) is control flow"),
    "a Loop that the runtime unfolds": (lambda: good(sequence_map()), r"\(SequenceMap\) is control flow"),
    "a Loop in a function": (
        lambda: good(functions=(function("f", loop_node()),), opsets=OURS),
        r"\(Loop\) is control flow",
    ),
    "more nodes than allowed": (
        lambda: good(*[helper.make_node("Neg", ["mean"], [""])] * onnx_graph.MAX_NODES),
        "holds more than 65536 nodes",
    ),
    "graphs deeper than allowed": (lambda: nested(onnx_graph.MAX_DEPTH), "nests graphs deeper than 16"),
    "a function that calls itself": (
        lambda: good(functions=(function("f", *call("f")),), opsets=OURS),
        "a function 'f' that calls itself",
    ),
    "functions that call each other": (
        lambda: good(functions=(function("f", *call("g")), function("g", *call("f"))), opsets=OURS),
        "that calls itself",
    ),
    "functions that unfold without end": (
        lambda: good(
            *call("f0"),
            functions=(
                *(function(f"f{one}", *call(f"f{one + 1}", 4)) for one in range(20)),
                function("f20", helper.make_node("Neg", ["x"], ["y"])),
            ),
            opsets=OURS,
        ),
        r"unfolds into \d{13} nodes",
    ),
    "two functions of one name": (
        lambda: good(functions=(function("f"), function("f")), opsets=OURS),
        "two functions of one name",
    ),
    "more functions than allowed": (
        lambda: good(functions=tuple(function(f"f{one}") for one in range(300)), opsets=OURS),
        "more than 256 functions",
    ),
    "more elements than the file holds": (
        lambda: good(initialisers=(claims([1 << 40]),)),
        "claims 1099511627776 elements",
    ),
    "dimensions whose product overflows": (
        lambda: good(initialisers=(claims([1 << 40, 1 << 40]),)),
        "claims 1208925819614629174706176 elements",
    ),
    "a negative dimension": (lambda: good(initialisers=(claims([-4]),)), r"has shape \[-4\]"),
    "more dimensions than allowed": (lambda: good(initialisers=(claims([1] * 40),)), "more than 32 dimensions"),
    "a sparse tensor that unfolds": (
        lambda: changed(
            lambda model: model.graph.sparse_initializer.append(
                onnx.SparseTensorProto(values=tensor(), indices=tensor(), dims=[1 << 30])
            )
        ),
        "claims 1073741824 elements",
    ),
    "an IR version nobody reads": (lambda: changed(lambda model: setattr(model, "ir_version", 99)), "IR version 99"),
    "an opset nobody reads": (lambda: good(opsets=(("", 99),)), "opset 99"),
    "no opset": (lambda: good(opsets=()), "states no opset"),
    "how to train it": (lambda: changed(trains), "how to train it"),
    "another output": (
        lambda: changed(lambda model: setattr(model.graph.output[0], "name", "more")),
        r"has the outputs \['more'\]; the manifest says \['scores'\]",
    ),
    "an input more": (lambda: changed(lambda model: model.graph.input.append(value("more"))), r"has the inputs"),
    "an output of another type": (lambda: changed(of_type), "output 'scores' is FP64"),
    "an output of another shape": (lambda: changed(of_shape), r"output 'scores' is FP32 of \['\?', 4\]"),
    "an output that is no tensor": (lambda: changed(of_sequence), "output 'scores' is element type 0"),
    "the runtime's own format": (lambda: b"\x18\0\0\0ORTM" + b"\0" * 64, "own format"),
    "no graph": (lambda: b"\x08\x0a", "holds no graph"),
    "nothing": (lambda: b"", "holds no graph"),
    "other bytes": (lambda: b"no graph at all", "is not an ONNX file"),
    "half of a file": (lambda: good().SerializeToString()[:-40], "is not an ONNX file"),
    "two graphs": (with_two_graphs, "field 7 twice"),
    "a tag that protobuf would cut": (with_a_tag_beyond_32_bits, "a tag that is none"),
    "a group": (lambda: good().SerializeToString() + b"\x8b\x06\x8c\x06", "wire type 3"),
    "a number without an end": (lambda: b"\x08" + b"\xff" * 20, "cut off"),
}
