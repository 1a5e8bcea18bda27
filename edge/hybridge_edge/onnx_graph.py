"""What an ONNX file says, read from its bytes without its runtime: nothing is run, copied or believed.

Field numbers are those of onnx.proto (github.com/onnx/onnx). How the bytes are read: ``onnx_wire``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from hybridge_edge.onnx_wire import Malformed, WireReader, message, number, numbers, signed, text

MAX_NODES = 65_536
MAX_DEPTH = 16
"""Graphs inside of graphs."""
MAX_FUNCTIONS = 256


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor with a value: ``held`` bytes of it stand in the file, ``external`` where some stand elsewhere."""

    name: str
    dims: tuple[int, ...]
    external: bool
    held: int

    @property
    def elements(self) -> int:
        return prod(self.dims)


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: element type as onnx.proto numbers it, 0 for no tensor; None for a free dimension.

    ``shape`` is None where the graph states none.
    """

    name: str
    element: int
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator with what its attributes hold."""

    op_type: str
    domain: str
    name: str
    overload: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    graphs: tuple[Graph, ...]
    tensors: tuple[TensorFacts, ...]

    def __str__(self) -> str:
        called = self.name or next((name for name in self.outputs if name), "")
        return f"node {called!r} ({self.domain + '.' if self.domain else ''}{self.op_type})"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes, initialisers (sparse ones as their two tensors), inputs and outputs."""

    nodes: tuple[Node, ...]
    initialisers: tuple[TensorFacts, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the file's own; nodes of its domain and name call it."""

    domain: str
    name: str
    overload: str
    nodes: tuple[Node, ...]
    opsets: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The whole file; ``opsets`` by domain, ``trains`` where it says how to train it."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    graph: Graph
    functions: tuple[Function, ...]
    trains: bool


def read_model(content: bytes) -> ModelFacts:
    """Read an ONNX file. Raises Malformed."""
    if content[4:8] == b"ORTM":
        raise Malformed("is in ONNX Runtime's own format, which cannot be examined")
    reader = _Reader()
    ir_version, opsets, functions, graph, trains = 0, [], [], None, False
    for field, wire, value in reader.fields(memoryview(content), frozenset({1, 7})):
        if field == 1:
            ir_version = number(wire, value)
        elif field == 7:
            graph = reader.graph(message(wire, value), 1)
        elif field == 8:
            opsets.append(reader.opset(message(wire, value)))
        elif field == 20:
            trains = True
        elif field == 25:
            functions.append(reader.function(message(wire, value)))
            if len(functions) > MAX_FUNCTIONS:
                raise Malformed(f"holds more than {MAX_FUNCTIONS} functions")
    if graph is None:
        raise Malformed("holds no graph")
    return ModelFacts(ir_version, tuple(opsets), graph, tuple(functions), trains)


def handed_on(model: ModelFacts) -> dict[str, str] | None:
    """Which input each output is, for a graph that changes nothing (Identity alone); None for any other."""
    inputs = {value.name for value in model.graph.inputs} - {tensor.name for tensor in model.graph.initialisers}
    source = {name: name for name in inputs}
    for node in model.graph.nodes:
        plain = node.op_type == "Identity" and node.domain in ("", "ai.onnx") and not node.overload
        if not plain or len(node.inputs) != 1 or len(node.outputs) != 1 or node.inputs[0] not in source:
            return None
        source[node.outputs[0]] = source[node.inputs[0]]
    found = {value.name: source.get(value.name, "") for value in model.graph.outputs}
    return found if all(found.values()) else None


class _Reader(WireReader):
    """ONNX's messages; counts nodes over a whole file."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes_left = MAX_NODES

    def opset(self, data: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for field, wire, value in self.fields(data, frozenset({1, 2})):
            if field == 1:
                domain = text(wire, value)
            elif field == 2:
                version = number(wire, value)
        return domain, version

    def graph(self, data: memoryview, depth: int) -> Graph:
        if depth > MAX_DEPTH:
            raise Malformed(f"nests graphs deeper than {MAX_DEPTH}")
        nodes: list[Node] = []
        initialisers: list[TensorFacts] = []
        inputs: list[Value] = []
        outputs: list[Value] = []
        for field, wire, value in self.fields(data, frozenset()):
            if field == 1:
                nodes.append(self.node(message(wire, value), depth))
            elif field == 5:
                initialisers.append(self.tensor(message(wire, value)))
            elif field == 15:
                initialisers += self.sparse(message(wire, value))
            elif field == 11:
                inputs.append(self.value(message(wire, value)))
            elif field == 12:
                outputs.append(self.value(message(wire, value)))
        return Graph(tuple(nodes), tuple(initialisers), tuple(inputs), tuple(outputs))

    def node(self, data: memoryview, depth: int) -> Node:
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise Malformed(f"holds more than {MAX_NODES} nodes")
        name = op_type = domain = overload = ""
        inputs: list[str] = []
        outputs: list[str] = []
        graphs: list[Graph] = []
        tensors: list[TensorFacts] = []
        for field, wire, value in self.fields(data, frozenset({3, 4, 7, 8})):
            if field == 1:
                inputs.append(text(wire, value))
            elif field == 2:
                outputs.append(text(wire, value))
            elif field == 3:
                name = text(wire, value)
            elif field == 4:
                op_type = text(wire, value)
            elif field == 7:
                domain = text(wire, value)
            elif field == 8:
                overload = text(wire, value)
            elif field == 5:
                self.attribute(message(wire, value), depth, graphs, tensors)
        return Node(op_type, domain, name, overload, tuple(inputs), tuple(outputs), tuple(graphs), tuple(tensors))

    def attribute(self, data: memoryview, depth: int, graphs: list[Graph], tensors: list[TensorFacts]) -> None:
        """Add the graphs and tensors that an attribute holds, whatever it says its type is."""
        for field, wire, value in self.fields(data, frozenset({1, 5, 6, 20, 21, 22})):
            if field in (5, 10):
                tensors.append(self.tensor(message(wire, value)))
            elif field in (6, 11):
                graphs.append(self.graph(message(wire, value), depth + 1))
            elif field in (22, 23):
                tensors += self.sparse(message(wire, value))

    def sparse(self, data: memoryview) -> list[TensorFacts]:
        """A sparse tensor's values and indices, and its full size as a tensor that holds none of it."""
        parts: list[TensorFacts] = []
        dims: list[int] = []
        for field, wire, value in self.fields(data, frozenset({1, 2})):
            if field in (1, 2):
                parts.append(self.tensor(message(wire, value)))
            elif field == 3:
                numbers(wire, value, dims)
        name = parts[0].name if parts else ""
        return [*parts, TensorFacts(name, tuple(dims), False, sum(part.held for part in parts))]

    def tensor(self, data: memoryview) -> TensorFacts:
        name, external, held = "", False, 0
        dims: list[int] = []
        for field, wire, value in self.fields(data, frozenset({2, 8, 9, 14})):
            if field == 1:
                numbers(wire, value, dims)
            elif field == 8:
                name = text(wire, value)
            elif field == 14:
                # An int32 on the wire: protobuf drops what stands above.
                external = external or number(wire, value) & 0xFFFFFFFF != 0
            elif field == 13:
                external = True
            elif field in (4, 5, 6, 7, 9, 10, 11):
                held += len(value) if isinstance(value, memoryview) else 1
        return TensorFacts(name, tuple(dims), external, held)

    def value(self, data: memoryview) -> Value:
        name, element = "", 0
        shape: tuple[int | None, ...] | None = None
        for field, wire, value in self.fields(data, frozenset({1, 2})):
            if field == 1:
                name = text(wire, value)
            elif field == 2:
                kinds = list(self.fields(message(wire, value), frozenset(range(1, 10))))
                for kind, kind_wire, held in kinds:
                    if kind == 1 and len([one for one in kinds if one[0] != 6]) == 1:
                        element, shape = self.tensor_type(message(kind_wire, held))
        return Value(name, element, shape)

    def tensor_type(self, data: memoryview) -> tuple[int, tuple[int | None, ...] | None]:
        element = 0
        shape: list[int | None] | None = None
        for field, wire, value in self.fields(data, frozenset({1, 2})):
            if field == 1:
                element = number(wire, value) & 0xFFFFFFFF
            elif field == 2:
                shape = [
                    self.dimension(message(dim_wire, dim))
                    for dim_number, dim_wire, dim in self.fields(message(wire, value), frozenset())
                    if dim_number == 1
                ]
        return element, None if shape is None else tuple(shape)

    def dimension(self, data: memoryview) -> int | None:
        found: int | None = None
        for field, wire, value in self.fields(data, frozenset({1, 2})):
            if field == 1:
                found = signed(number(wire, value))
            elif field == 2:
                return None
        return found

    def function(self, data: memoryview) -> Function:
        name = domain = overload = ""
        nodes: list[Node] = []
        opsets: list[tuple[str, int]] = []
        for field, wire, value in self.fields(data, frozenset({1, 10, 13})):
            if field == 1:
                name = text(wire, value)
            elif field == 7:
                nodes.append(self.node(message(wire, value), 1))
            elif field == 9:
                opsets.append(self.opset(message(wire, value)))
            elif field == 10:
                domain = text(wire, value)
            elif field == 11:
                # Defaults of the function's attributes, which may hold graphs and tensors as a node's do.
                graphs: list[Graph] = []
                tensors: list[TensorFacts] = []
                self.attribute(message(wire, value), 1, graphs, tensors)
                nodes.append(Node("", "", f"{name} (defaults)", "", (), (), tuple(graphs), tuple(tensors)))
            elif field == 13:
                overload = text(wire, value)
        return Function(domain, name, overload, tuple(nodes), tuple(opsets))
