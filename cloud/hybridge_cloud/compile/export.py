"""Torch modules to ONNX graphs that ONNX Runtime 1.23 reads, with nothing of this machine in their bytes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import torch
from torch import nn

from hybridge_cloud.training.loop import Answering, reproducible, run_module
from hybridge_cloud.training.task import Arrays, Task
from hybridge_edge.arrays import to_tensor
from hybridge_edge.codecs.decoder import decode_inputs
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.manifest import MAX_BATCH_LIMIT

OPSET = 18
IR_VERSION = 10
"""Both are read by ONNX Runtime 1.23, which JetPack 6 stays on; a newer torch may not raise them by itself."""
EXAMPLE_ROWS = 3
"""Rows the exporter traces with: neither 0 nor 1, which it would take for constants."""
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_COMPLEX = frozenset({onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128})
_MAX_REASON = 300


def export_features(task: Task, inputs: Arrays) -> bytes:
    """``task.features()`` as a graph: the task's inputs -> its features, any number of rows.

    Args:
        inputs: at least EXAMPLE_ROWS raw rows. Raises Refused with the exporter's reason.
    """
    names = tuple(spec.name for spec in task.inputs)
    some = {name: array[:EXAMPLE_ROWS] for name, array in inputs.items()}
    return _export(task.features(), decode_inputs(task.codecs, some), names, task.feature_names)


def export_model(task: Task, module: nn.Module, features: Arrays) -> bytes:
    """A trained model and ``task.answer()`` as one graph: features -> outputs, any number of rows."""
    return _export(Answering(module, task.answer()), features, task.feature_names, task.output_names)


def _export(module: nn.Module, arrays: Arrays, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> bytes:
    given = [arrays[name][:EXAMPLE_ROWS] for name in inputs]
    # The module's own errors come first, in plain words; so do types no signature has, such as complex numbers, which
    # the exporter would quietly turn into a last axis of two.
    for name, array in run_module(module, outputs, given).items():
        to_tensor(name, array)
    rows = torch.export.Dim("batch", min=1, max=MAX_BATCH_LIMIT)
    # One entry for a module of *tensors, one per tensor for a module of named arguments.
    shapes: list[Any] = [{0: rows} for _ in given]
    with reproducible(0), _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(torch.from_numpy(array.copy()) for array in given),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(tuple(shapes),) if isinstance(module, Answering) else tuple(shapes),
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise Refused(
                f"torch cannot export the module to ONNX: {_reason(error)}.",
                "Use standard operators, and no Python branches on values.",
            ) from None
    if program is None:
        raise Refused("torch gave no ONNX program.", "Use torch 2.9 or newer.")
    model = program.model_proto
    _refuse_foreign(model)
    model.ir_version = IR_VERSION
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _refuse_foreign(model: onnx.ModelProto) -> None:
    """A package's graph has standard operators of one opset, no functions of its own and no complex numbers."""
    foreign = sorted({f"{n.domain}::{n.op_type}" for n in model.graph.node if n.domain not in _STANDARD_DOMAINS})
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    complex_values = [value.name for value in values if value.type.tensor_type.elem_type in _COMPLEX]
    opsets = {entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS}
    if foreign or model.functions or complex_values or opsets != {OPSET}:
        found = ", ".join([*foreign, *(f.name for f in model.functions), *complex_values]) or f"opset {sorted(opsets)}"
        raise Refused(
            f"The exported graph holds what a device cannot run: {found[:_MAX_REASON]}.",
            f"Use operators of ONNX opset {OPSET} and real numbers; a Fourier transform can be a convolution.",
        )


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes about sources: file names and lines differ from machine to machine."""
    model.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.graph.name = "main"
    for part in _parts(model.graph):
        for field in ("metadata_props", "doc_string"):
            if any(known.name == field for known, _ in part.ListFields()):
                part.ClearField(field)


def _parts(graph: onnx.GraphProto) -> Iterable[Any]:
    yield graph
    yield from (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield attribute
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _parts(inner)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:_MAX_REASON].rstrip(".")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes about packages we do not use off the screen; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
