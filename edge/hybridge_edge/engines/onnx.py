"""ONNX Runtime: two sessions a package, features then model, both from bytes whose digest was checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any

import numpy
import onnxruntime

from hybridge_edge import onnx_graph
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.contract.errors import PackageRefused, Refused
from hybridge_edge.contract.manifest import Variant
from hybridge_edge.contract.state import FEATURES, MODEL, State, inputs_of, outputs_of
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import CPU, Array, Arrays, EngineResult, ProviderFailed, Readable, Stop
from hybridge_edge.memory import return_freed
from hybridge_edge.onnx_wire import Malformed
from hybridge_edge.package import Package

_TYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
}
_COMPILE_AGAIN = "Compile the package again."
_ERRORS_ONLY, _FATAL_ONLY = 3, 4
OLDEST_IR_VERSION, OLDEST_OPSET = 8, 17
"""Every ONNX Runtime that the edge's dependencies allow reads these."""
MAX_STEPS = 40
_PLAIN_BYTES = 4096
"""A graph that only hands its input on is far smaller."""


def available_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime."""
    return tuple(onnxruntime.get_available_providers())


def installed_version() -> str:
    """Of ONNX Runtime."""
    return str(onnxruntime.__version__)


@cache
def readable() -> Readable:
    """The newest IR version and opset that the installed runtime reads, found by having it read graphs of one node.

    No table of ours could know the runtime that a device brings. A session of one node takes half a millisecond.
    """
    ir_version = _newest(OLDEST_IR_VERSION, lambda number: _identity(number, OLDEST_OPSET))
    return Readable(ir_version, _newest(OLDEST_OPSET, lambda number: _identity(ir_version, number)))


def _newest(number: int, make: Callable[[int], bytes]) -> int:
    """The last of the numbers in a row whose file is read."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = 1
    for candidate in range(number, number + MAX_STEPS):
        try:
            onnxruntime.InferenceSession(make(candidate), options, providers=["CPUExecutionProvider"])
        except Exception:  # onnxruntime raises a dozen classes with no common root of its own
            break
        number = candidate
    return number


def _identity(ir_version: int, opset: int) -> bytes:
    """An ONNX file, a -> Identity -> b, FP32 of shape [1], both versions below 128 (onnx.proto, wire format)."""
    value = "0a0161120a0a08080112040a020801"
    graph = bytes.fromhex(f"0a100a016112016222084964656e746974791201675a0f{value}620f{value.replace('61', '62', 1)}")
    return bytes([0x08, ir_version, 0x3A, len(graph)]) + graph + bytes([0x42, 4, 0x0A, 0, 0x10, opset])


class OnnxEngine:
    """Both graphs of one variant, loaded."""

    def __init__(
        self, package: Package, variant: Variant, provider: str, threads: int, *, spinning: bool = False
    ) -> None:
        manifest = package.manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Spinning wins microseconds on an idle machine and takes a core from the sensors on a busy one.
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        features = package.read(variant.features)
        self._features = _session(features, variant.features, options, provider)
        self._model = _session(package.read(variant.model), variant.model, options, provider)
        states = manifest.states
        for path, session, graph, taken, given in (
            (variant.features, self._features, FEATURES, manifest.graph_inputs, manifest.features),
            (variant.model, self._model, MODEL, manifest.features, manifest.outputs),
        ):
            specs = (*taken, *inputs_of(states, graph)), (*given, *outputs_of(states, graph))
            _check_signature(path, session, *specs)
        self._kept = {graph: [one for one in states if one.graph == graph] for graph in (FEATURES, MODEL)}
        self._initial = {one.input: initial_value(one) for one in states}
        self._handed_on = {} if self._kept[FEATURES] else _handed_on(features, manifest.graph_inputs)
        # Looked at and never run: what it holds need not stay.
        given = manifest.graph_inputs
        self._features = None if self._handed_on else _with_bytes(self._features, given, manifest.features)
        del features
        self._model = _with_bytes(self._model, manifest.features, manifest.outputs)
        return_freed()
        self._feature_names = [spec.name for spec in manifest.features]
        self._output_names = [spec.name for spec in manifest.outputs]
        self.provider = provider
        batched = next((spec.name for spec in manifest.graph_inputs if spec.shape[0] == -1), "")
        self._batched = batched if provider == CPU else ""
        self.degraded = ""

    def run(self, inputs: Arrays, stop: Stop | None = None, state: Arrays | None = None) -> EngineResult:
        """Run checked inputs through both graphs; onnxruntime's sessions may be shared by threads.

        Once a stop is asked for, the operator that runs is the last one (onnxruntime, RunOptions.terminate).
        """
        options = None
        if stop is not None:
            options = onnxruntime.RunOptions()
            if self._batched and len(inputs[self._batched]) > 1:
                # Otherwise the runtime keeps for ever what a batch needs: after a busy minute a device that answers one
                # row at a time would hold the memory of thirty-two.
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            stop.when_asked(partial(setattr, options, "terminate", True))
        if self._initial:
            return self._step(inputs, self._initial if state is None else state, options)
        start = perf_counter_ns()
        handed_on = self._handed_on
        if handed_on:
            features = {name: inputs[given] for name, given in handed_on.items()}
        else:
            found = self._features.run(self._feature_names, inputs, options)
            features = dict(zip(self._feature_names, found, strict=True))
        between = perf_counter_ns()
        outputs = dict(zip(self._output_names, self._model.run(self._output_names, features, options), strict=True))
        end = perf_counter_ns()
        return EngineResult(features, outputs, (between - start) // 1000, (end - between) // 1000)

    def _step(self, inputs: Arrays, state: Arrays, options: Any) -> EngineResult:
        """One run of a model with states: each graph takes its own and gives their next values."""
        found: list[dict[str, Array]] = []
        after: dict[str, Array] = {}
        times = [perf_counter_ns()]
        given = inputs
        for graph, session, names in (
            (FEATURES, self._features, self._feature_names),
            (MODEL, self._model, self._output_names),
        ):
            kept = self._kept[graph]
            if graph == FEATURES and self._handed_on:
                found.append({name: inputs[source] for name, source in self._handed_on.items()})
            else:
                fed = {**given, **{one.input: state[one.input] for one in kept}}
                values = session.run([*names, *(one.output for one in kept)], fed, options)
                found.append(dict(zip(names, values, strict=False)))
                after |= {one.input: _next(one, value) for one, value in zip(kept, values[len(names) :], strict=True)}
            given = found[-1]
            times.append(perf_counter_ns())
        features, outputs = found
        return EngineResult(
            features, outputs, (times[1] - times[0]) // 1000, (times[2] - times[1]) // 1000, MappingProxyType(after)
        )

    def close(self) -> None:
        del self._features, self._model


def initial_value(state: State) -> Array:
    """A state as a sequence begins with it; read-only, since every sequence begins with the same."""
    value = numpy.full(state.shape, state.initial, NUMPY_TYPES[state.datatype])
    value.setflags(write=False)
    return value


def _next(state: State, value: Array) -> Array:
    """The state's next value, where it is one."""
    if value.shape != state.shape:
        raise Refused(
            f"The model gave its state {state.input!r} with shape {list(value.shape)}; the manifest says "
            f"{list(state.shape)}.",
            "The sequence stays where it was; send what the model was made for.",
        )
    if value.dtype.kind == "f" and numpy.isnan(value).any():
        raise Refused(
            f"The model's state {state.input!r} would hold what is no number.",
            "The sequence stays where it was; look for NaN or infinity in what was sent.",
        )
    return value


def _session(content: bytes, path: str, options: Any, provider: str) -> Any:
    """A session on ``provider``, which takes what that one cannot run to the CPU by itself, node by node.

    Raises:
        ProviderFailed: the graph cannot be loaded there, or the runtime quietly took another provider.
    """
    try:
        # Without this the Python binding prints to stdout and takes the CPU, and nobody hears of it.
        session = onnxruntime.InferenceSession(content, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime raises a dozen classes with no common root of its own
        reason = f"{path} cannot be loaded on {provider}: {_first_line(error)}"
        raise ProviderFailed(reason, _COMPILE_AGAIN, step="load") from None
    if (found := session.get_providers()[0]) != provider:
        raise ProviderFailed(
            f"{path} was to run on {provider} and got {found}.", "See hybridge-edge doctor.", step="load"
        )
    # It keeps the file's bytes for the fallback that is off here, as many again as the weights take.
    session._model_bytes = None
    return session


class _BytesSession:
    """A session whose string tensors are BYTES outside: ONNX has text there, so elements are UTF-8."""

    def __init__(self, session: Any, inputs: Sequence[str]) -> None:
        self._session = session
        self._inputs = inputs
        self.get_providers = session.get_providers

    def run(self, names: Sequence[str], feeds: Arrays, *options: Any) -> list[Array]:
        texts = {name: _each(bytes.decode, feeds[name]) for name in self._inputs}
        found: list[Array] = self._session.run(names, {**feeds, **texts}, *options)
        return [_each(str.encode, array) if array.dtype.hasobject else array for array in found]


def _handed_on(content: bytes, inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Which raw input each feature is, where the features are the raw inputs: then no graph need run to say so.

    Whoever brings a graph of the whole way from raw input to answer has such features. {} where a graph has to run.
    """
    if len(content) > _PLAIN_BYTES or any(spec.datatype == BYTES for spec in inputs):
        return {}
    try:
        return onnx_graph.handed_on(onnx_graph.read_model(content)) or {}
    except Malformed:  # the runtime has loaded it, so it is some form that this reader is too strict for
        return {}


def _with_bytes(session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Any:
    """The session itself where no tensor is of BYTES."""
    if not any(spec.datatype == BYTES for spec in (*inputs, *outputs)):
        return session
    return _BytesSession(session, [spec.name for spec in inputs if spec.datatype == BYTES])


def _each(convert: Callable[[Any], object], array: Array) -> Array:
    """Every element converted, in an array of objects of the same shape."""
    made = numpy.empty(array.size, object)
    made[:] = [convert(element) for element in array.ravel()]
    return made.reshape(array.shape)


def _check_signature(path: str, session: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    for role, specs, nodes in (("input", inputs, session.get_inputs()), ("output", outputs, session.get_outputs())):
        found = {node.name: node for node in nodes}
        if set(found) != {spec.name for spec in specs}:
            raise PackageRefused(
                f"{path} has the {role}s {sorted(found)}; the manifest says {sorted(spec.name for spec in specs)}.",
                _COMPILE_AGAIN,
                step="load",
            )
        for spec in specs:
            node = found[spec.name]
            if _TYPES.get(node.type) != spec.datatype or not _fits(spec.shape, node.shape):
                raise PackageRefused(
                    f"{path}: {role} {spec.name!r} is {node.type} of {node.shape}; the manifest says {spec.datatype} "
                    f"of {list(spec.shape)}.",
                    _COMPILE_AGAIN,
                    step="load",
                )


def _fits(declared: tuple[int, ...], graph: Sequence[object]) -> bool:
    """Whether a graph's dimensions (numbers, or names for free ones) agree with a signature's."""
    if len(declared) != len(graph):
        return False
    pairs = zip(declared, graph, strict=True)
    return all(not isinstance(found, int) or found == size for size, found in pairs)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
