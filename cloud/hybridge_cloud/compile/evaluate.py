"""Measure a package by its own graphs: what champion and challenger are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.package import read_package
from hybridge_cloud.training.graph import Graph
from hybridge_cloud.training.task import Arrays, Task
from hybridge_edge.codecs.decoder import decode_inputs
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.package import Package


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A package on labelled rows.

    Attributes:
        metrics: the task's. correct: (rows,) whether each row is right. outputs: by name, each (rows, ...).
    """

    metrics: dict[str, float]
    correct: NDArray[np.bool_]
    outputs: Arrays


def evaluate_package(package_folder: Path, windows: Arrays, labels: NDArray[np.int64], task: Task) -> Evaluation:
    """Run a package's features.onnx and model.onnx on raw inputs.

    Args:
        windows: raw inputs by name, each (rows, ...), such as ``dataset.frozen.inputs``. labels: (rows,) int64.

    Raises:
        PackageRefused: the package's files are not what its manifest says. InvalidInput: the tensors do not fit.
    """
    package = read_package(package_folder)
    if any(len(array) != len(labels) for array in windows.values()) or not len(labels):
        raise InvalidInput(f"{len(labels)} labels do not fit the windows' rows.")
    outputs = answer_with(package, windows)
    return Evaluation(task.metrics(outputs, labels), task.correct(outputs, labels), outputs)


def answer_with(package: Package, windows: Arrays) -> Arrays:
    """A package's answers by its own graphs: raw inputs by name, each (rows, ...) -> outputs by name.

    Raises:
        PackageRefused: a graph is not what the manifest says. InvalidInput: the tensors do not fit.
    """
    variant, rows = package.manifest.variants[0], package.manifest.max_batch
    codecs = package.manifest.codecs
    return answer_with_graphs(package.read(variant.features), package.read(variant.model), windows, rows, codecs)


def answer_with_graphs(
    features_onnx: bytes, model_onnx: bytes, windows: Arrays, max_batch: int, codecs: Sequence[Codec] = ()
) -> Arrays:
    """The same for two graphs that are no package yet."""
    decoded = decode_inputs(codecs, windows)
    return Graph(model_onnx).run(Graph(features_onnx).run(decoded, max_batch), max_batch)
