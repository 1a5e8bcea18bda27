"""What a graph may be, judged from its bytes before any runtime sees them: policy, not correctness.

Refused: data outside the file; operators of other domains than ALLOWED_DOMAINS, or that carry a path; control flow that
the manifest does not declare; more or larger than the limits; functions that call themselves, or unfold beyond the
limits; what the installed runtime cannot read; inputs and outputs that are not the manifest's. Each finding says what
to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hybridge_edge import onnx_graph
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import CONTROL_FLOW, Manifest
from hybridge_edge.contract.state import FEATURES, MODEL, inputs_of, outputs_of
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Readable
from hybridge_edge.onnx_graph import Function, ModelFacts, Node, TensorFacts, Value
from hybridge_edge.onnx_wire import Malformed
from hybridge_edge.package import Package

STEP = "lint"
ALLOWED_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Whose operators a graph may use; training domains are not among them."""
STANDARD = frozenset({"", "ai.onnx"})
REFUSED_OPERATORS = frozenset({("com.microsoft", "EPContext")})
"""Their attributes name files that the runtime would read."""
HIDDEN_CONTROL_FLOW = {"SequenceMap": "Loop"}
"""Operators that a runtime unfolds into control flow."""
MAX_INITIALISER_BYTES = 2 * 1024**3
MAX_ELEMENTS = 1 << 31
MAX_FINDINGS = 16
_PER_BYTE = 4
"""Elements that one byte of a file can hold at the most: onnx.proto's smallest types have two bits."""
_COMPILE_AGAIN = "Compile the package again with hybridge compile."
DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
}
"""onnx.proto's TensorProto.DataType as the Open Inference Protocol names them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Why a graph is refused, a sentence each for what is wrong and what to do."""

    reason: str
    remedy: str


def check_graphs(package: Package, readable: Readable) -> None:
    """Lint the graphs of every variant.

    Raises:
        PackageRefused: step lint, with the first finding and how many there are.
    """
    manifest = package.manifest
    for path, inputs, outputs in signatures(manifest):
        found = lint(path, package.read(path), inputs, outputs, manifest.control_flow, readable)
        if found:
            more = f" There are {len(found) - 1} findings more." if len(found) > 1 else ""
            raise PackageRefused(found[0].reason + more, found[0].remedy, step=STEP)


def signatures(manifest: Manifest) -> tuple[tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]], ...]:
    """Each graph's path with all that it must take and give, states included."""
    states = manifest.states
    features = (
        (*manifest.graph_inputs, *inputs_of(states, FEATURES)), (*manifest.features, *outputs_of(states, FEATURES))
    )  # fmt: skip
    model = (*manifest.features, *inputs_of(states, MODEL)), (*manifest.outputs, *outputs_of(states, MODEL))
    roles = [(variant.features, *features) for variant in manifest.variants]
    roles += [(variant.model, *model) for variant in manifest.variants]
    return tuple(dict.fromkeys(roles))


def lint(
    path: str,
    content: bytes,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    control_flow: Sequence[str],
    readable: Readable,
) -> tuple[Finding, ...]:
    """What is wrong with a graph, at most MAX_FINDINGS; () where nothing is.

    Args:
        path: for the sentences. inputs, outputs: the manifest's signature. control_flow: what it declares.
        readable: what the installed runtime reads.
    """
    try:
        model = onnx_graph.read_model(content)
    except Malformed as error:
        return (Finding(f"{path} {error}.", _COMPILE_AGAIN),)
    found: list[Finding] = []
    for finding in _findings(path, model, len(content), inputs, outputs, frozenset(control_flow), readable):
        found.append(finding)
        if len(found) == MAX_FINDINGS:
            break
    return tuple(found)


def used_control_flow(*contents: bytes) -> tuple[str, ...]:
    """Which of the manifest's CONTROL_FLOW graphs use, wherever in them: what ``control_flow`` has to declare.

    Raises:
        PackageRefused: step lint: a graph cannot be read.
    """
    used: set[str] = set()
    for content in contents:
        try:
            model = onnx_graph.read_model(content)
        except Malformed as error:
            raise PackageRefused(f"A graph {error}.", _COMPILE_AGAIN, step=STEP) from None
        bodies = (model.graph.nodes, *(one.nodes for one in model.functions))
        used |= {_control_flow(node) for nodes in bodies for node in _inside(nodes)}
    return tuple(name for name in CONTROL_FLOW if name in used)


def _control_flow(node: Node) -> str:
    """Which of CONTROL_FLOW a node is or unfolds into, "" for none."""
    if node.domain not in STANDARD:
        return ""
    return node.op_type if node.op_type in CONTROL_FLOW else HIDDEN_CONTROL_FLOW.get(node.op_type, "")


def _findings(
    path: str,
    model: ModelFacts,
    size: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    control_flow: frozenset[str],
    readable: Readable,
) -> Iterator[Finding]:
    yield from _versions(path, model, readable)
    functions = {(one.domain, one.name, one.overload): one for one in model.functions}
    if len(functions) != len(model.functions):
        yield Finding(f"{path} has two functions of one name.", _COMPILE_AGAIN)
    nodes = [*_inside(model.graph.nodes), *(node for one in model.functions for node in _inside(one.nodes))]
    for node in nodes:
        yield from _node(path, node, functions, control_flow)
    tensors = [*_all_tensors(model.graph.nodes, model.graph.initialisers)]
    for one in model.functions:
        tensors += _all_tensors(one.nodes, ())
    yield from _tensors(path, tensors, size)
    yield from _unfolded(path, model, functions)
    initialised = {tensor.name for tensor in model.graph.initialisers}
    free = tuple(value for value in model.graph.inputs if value.name not in initialised)
    yield from _signature(path, "input", inputs, free)
    yield from _signature(path, "output", outputs, model.graph.outputs)


def _versions(path: str, model: ModelFacts, readable: Readable) -> Iterator[Finding]:
    again = f"Compile for IR version {readable.ir_version} and opset {readable.opset}, or update the runtime."
    if not 1 <= model.ir_version <= readable.ir_version:
        yield Finding(
            f"{path} has IR version {model.ir_version}; the runtime of this device reads up to {readable.ir_version}.",
            again,
        )
    opsets = [*model.opsets, *(opset for one in model.functions for opset in one.opsets)]
    for domain, version in dict.fromkeys(opsets):
        if domain in STANDARD and not 1 <= version <= readable.opset:
            yield Finding(
                f"{path} has opset {version}; the runtime of this device reads up to {readable.opset}.", again
            )
    if not any(domain in STANDARD for domain, _ in model.opsets):
        yield Finding(f"{path} states no opset.", _COMPILE_AGAIN)
    if model.trains:
        yield Finding(f"{path} holds how to train it, which has no place on a device.", _COMPILE_AGAIN)


def _node(
    path: str, node: Node, functions: dict[tuple[str, str, str], Function], control_flow: frozenset[str]
) -> Iterator[Finding]:
    if (node.domain, node.op_type, node.overload) in functions or not node.op_type:
        return
    if node.domain not in ALLOWED_DOMAINS:
        allowed = ", ".join(sorted(repr(domain) for domain in ALLOWED_DOMAINS))
        yield Finding(
            f"{path}: {node} is of domain {node.domain!r}.", f"Export with operators of the domains {allowed}."
        )
        return
    if (node.domain, node.op_type) in REFUSED_OPERATORS:
        yield Finding(f"{path}: {node} reads files beside the graph.", "Export the operators themselves.")
    if node.domain not in STANDARD:
        if node.graphs:
            yield Finding(f"{path}: {node} carries a graph of its own.", f"Only {', '.join(CONTROL_FLOW)} may.")
        return
    needed = _control_flow(node)
    if not needed and node.graphs:
        yield Finding(f"{path}: {node} carries a graph of its own.", f"Only {', '.join(CONTROL_FLOW)} may.")
    if needed and needed not in control_flow:
        yield Finding(
            f"{path}: {node} is control flow that the manifest does not declare.",
            f"Compile the package again; its manifest must list {needed!r} in control_flow.",
        )


def _tensors(path: str, tensors: Sequence[TensorFacts], size: int) -> Iterator[Finding]:
    if sum(tensor.held for tensor in tensors) > MAX_INITIALISER_BYTES:
        yield Finding(f"{path} holds more than {MAX_INITIALISER_BYTES >> 20} MB of weights.", "Make a smaller model.")
    for tensor in tensors:
        if tensor.external:
            yield Finding(
                f"{path}: tensor {tensor.name!r} has its data outside of the file.",
                "Save the graph with its weights inside.",
            )
        elif any(size < 0 for size in tensor.dims):
            yield Finding(f"{path}: tensor {tensor.name!r} has shape {list(tensor.dims)}.", _COMPILE_AGAIN)
        elif tensor.elements > min(MAX_ELEMENTS, _PER_BYTE * size):
            yield Finding(
                f"{path}: tensor {tensor.name!r} claims {tensor.elements} elements, more than the file can hold.",
                _COMPILE_AGAIN,
            )


def _unfolded(path: str, model: ModelFacts, functions: dict[tuple[str, str, str], Function]) -> Iterator[Finding]:
    """Functions that call themselves, or that calls of calls unfold into too many nodes."""
    sizes: dict[tuple[str, str, str], int] = {}
    under_way: set[tuple[str, str, str]] = set()

    def size(nodes: Sequence[Node]) -> int:
        total = 0
        for node in _inside(nodes):
            key = (node.domain, node.op_type, node.overload)
            total += of_function(key) if key in functions else 1
        return total

    def of_function(key: tuple[str, str, str]) -> int:
        if key in under_way:
            raise Malformed(f"has a function {key[1]!r} that calls itself")
        if key not in sizes:
            under_way.add(key)
            sizes[key] = size(functions[key].nodes)
            under_way.remove(key)
        return sizes[key]

    try:
        total = size(model.graph.nodes)
        for key in functions:
            of_function(key)
    except Malformed as error:
        yield Finding(f"{path} {error}.", "Export it without the recursion.")
        return
    if total > onnx_graph.MAX_NODES:
        yield Finding(
            f"{path} unfolds into {total} nodes; {onnx_graph.MAX_NODES} are allowed.",
            "Export fewer calls of functions.",
        )


def _signature(path: str, role: str, declared: Sequence[TensorSpec], found: Sequence[Value]) -> Iterator[Finding]:
    names = {value.name: value for value in found}
    if len(names) != len(found) or set(names) != {spec.name for spec in declared}:
        wanted = sorted(spec.name for spec in declared)
        yield Finding(
            f"{path} has the {role}s {sorted(value.name for value in found)}; the manifest says {wanted}.",
            _COMPILE_AGAIN,
        )
        return
    for spec in declared:
        value = names[spec.name]
        if DATATYPES.get(value.element) != spec.datatype or not _fits(spec.shape, value.shape):
            shape = "any shape" if value.shape is None else str(["?" if size is None else size for size in value.shape])
            kind = DATATYPES.get(value.element, f"element type {value.element}")
            yield Finding(
                f"{path}: {role} {spec.name!r} is {kind} of {shape}; the manifest says {spec.datatype} of "
                f"{list(spec.shape)}.",
                _COMPILE_AGAIN,
            )


def _fits(declared: tuple[int, ...], found: tuple[int | None, ...] | None) -> bool:
    """Whether a graph's dimensions agree with a signature's; a free one is compared by the runtime, when it loads."""
    if found is None:
        return True
    pairs = zip(declared, found, strict=False)
    return len(declared) == len(found) and all(size is None or size == want for want, size in pairs)


def _inside(nodes: Sequence[Node]) -> Iterator[Node]:
    """Nodes and the nodes of the graphs they carry; as deep as ``onnx_graph.MAX_DEPTH``."""
    for node in nodes:
        yield node
        for graph in node.graphs:
            yield from _inside(graph.nodes)


def _all_tensors(nodes: Sequence[Node], initialisers: Sequence[TensorFacts]) -> Iterator[TensorFacts]:
    yield from initialisers
    for node in nodes:
        yield from node.tensors
        for graph in node.graphs:
            yield from _all_tensors(graph.nodes, graph.initialisers)
