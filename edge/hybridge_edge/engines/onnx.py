"""ONNX Runtime: two sessions a package, features then model, both from bytes whose digest was checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import Any

import numpy
import onnxruntime

from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import Variant
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import Array, Arrays, EngineResult, Stop
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
_ERRORS_ONLY = 3


def available_providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime."""
    return tuple(onnxruntime.get_available_providers())


class OnnxEngine:
    """Both graphs of one variant, loaded."""

    def __init__(self, package: Package, variant: Variant, providers: Sequence[str], threads: int) -> None:
        manifest = package.manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        # Spinning wins microseconds on an idle machine and takes a core from the sensors on a busy one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._features = _session(package, variant.features, options, providers)
        self._model = _session(package, variant.model, options, providers)
        _check_signature(variant.features, self._features, manifest.inputs, manifest.features)
        _check_signature(variant.model, self._model, manifest.features, manifest.outputs)
        self._features = _with_bytes(self._features, manifest.inputs, manifest.features)
        self._model = _with_bytes(self._model, manifest.features, manifest.outputs)
        self._feature_names = [spec.name for spec in manifest.features]
        self._output_names = [spec.name for spec in manifest.outputs]
        self.provider: str = self._model.get_providers()[0]

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        """Run checked inputs through both graphs; onnxruntime's sessions may be shared by threads.

        Once a stop is asked for, the operator that runs is the last one (onnxruntime, RunOptions.terminate).
        """
        options = None
        if stop is not None:
            options = onnxruntime.RunOptions()
            stop.when_asked(partial(setattr, options, "terminate", True))
        start = perf_counter_ns()
        features = dict(zip(self._feature_names, self._features.run(self._feature_names, inputs, options), strict=True))
        between = perf_counter_ns()
        outputs = dict(zip(self._output_names, self._model.run(self._output_names, features, options), strict=True))
        end = perf_counter_ns()
        return EngineResult(features, outputs, (between - start) // 1000, (end - between) // 1000)

    def close(self) -> None:
        del self._features, self._model


def _session(package: Package, path: str, options: Any, providers: Sequence[str]) -> Any:
    content = package.read(path)
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises a dozen classes with no common root of its own
        raise PackageRefused(f"{path} cannot be loaded: {_first_line(error)}", _COMPILE_AGAIN, step="load") from None


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
