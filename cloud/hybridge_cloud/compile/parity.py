"""Does the package answer as the trained torch modules did? By every element, and by the task's metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hybridge_cloud.training.features import torch_features
from hybridge_cloud.training.graph import Graph
from hybridge_cloud.training.loop import answer
from hybridge_cloud.training.project import ParityConfig
from hybridge_cloud.training.task import Arrays, Samples, Task
from hybridge_edge.codecs.decoder import decode_inputs
from hybridge_edge.contract.errors import PackageRefused

_STEP = "parity"


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch gives for the held-out rows."""

    features: Arrays
    outputs: Arrays


@dataclass(frozen=True, slots=True)
class TensorParity:
    """One tensor: its largest absolute difference, and how many of its elements are beyond the tolerance."""

    name: str
    largest: float
    beyond: int
    elements: int


@dataclass(frozen=True, slots=True)
class Parity:
    """Outcome of one comparison. ``torch_metric`` and ``onnx_metric`` are of the project's parity metric."""

    rows: int
    tensors: tuple[TensorParity, ...]
    metric: str
    torch_metric: float
    onnx_metric: float


def reference(task: Task, module: nn.Module, samples: Samples) -> Reference:
    """Features and outputs by torch, with the weights of the run."""
    features = torch_features(task, samples.inputs)
    return Reference(features, answer(task, module, features))


def compare(
    task: Task,
    wanted: Reference,
    samples: Samples,
    features_onnx: bytes,
    model_onnx: bytes,
    config: ParityConfig,
    max_batch: int,
) -> Parity:
    """Run both graphs on the held-out rows, alone and ``max_batch`` together, and compare with torch.

    Raises:
        PackageRefused: a tensor has another shape, an element is beyond the tolerance, or the metric moved too far.
    """
    features_graph, model_graph = Graph(features_onnx), Graph(model_onnx)
    inputs = decode_inputs(task.codecs, samples.inputs)
    features = features_graph.run(inputs, max_batch)
    outputs = model_graph.run(features, max_batch)
    first = {name: array[:1] for name, array in inputs.items()}
    alone = model_graph.run(features_graph.run(first, 1), 1)
    tensors = [_compare(name, wanted.features[name], features[name], config) for name in wanted.features]
    tensors += [_compare(name, wanted.outputs[name], outputs[name], config) for name in wanted.outputs]
    tensors += [_compare(name, wanted.outputs[name][:1], alone[name], config) for name in wanted.outputs]
    before = _metric(task, wanted.outputs, samples, config)
    after = _metric(task, outputs, samples, config)
    if abs(before - after) > config.metric_tolerance:
        raise PackageRefused(
            f"The {config.metric} of the exported graphs is {after:.4f} where torch has {before:.4f}: "
            f"more than {config.metric_tolerance} apart on {len(samples)} held-out rows.",
            "Look for an operator that exports differently, or for layers that behave differently in evaluation.",
            step=_STEP,
        )
    return Parity(len(samples), tuple(tensors[: -len(wanted.outputs)]), config.metric, before, after)


def _compare(name: str, wanted: NDArray[Any], got: NDArray[Any], config: ParityConfig) -> TensorParity:
    if wanted.shape != got.shape:
        raise PackageRefused(
            f"{name!r} of the exported graphs has shape {list(got.shape)} where torch gives {list(wanted.shape)}.",
            step=_STEP,
        )
    difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    # Written so that a NaN on either side counts as beyond.
    within = difference <= config.atol + config.rtol * np.abs(wanted)
    result = TensorParity(name, float(difference.max()), int((~within).sum()), within.size)
    if result.beyond:
        raise PackageRefused(
            f"{result.beyond} of {result.elements} elements of {name!r} differ from torch by more than "
            f"{config.atol} + {config.rtol} * |value|; the largest difference is {result.largest:.3g}.",
            "Look for an operator that exports differently; widen [parity] in project.toml only if that is harmless.",
            step=_STEP,
        )
    return result


def _metric(task: Task, outputs: Arrays, samples: Samples, config: ParityConfig) -> float:
    metrics = task.metrics(outputs, samples.labels)
    if config.metric not in metrics:
        raise PackageRefused(
            f"The task has no metric {config.metric!r}; it has {', '.join(metrics)}.",
            "Correct [parity] metric in project.toml.",
            step=_STEP,
        )
    return metrics[config.metric]
