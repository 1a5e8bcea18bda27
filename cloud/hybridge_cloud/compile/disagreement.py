"""How often a package answers otherwise than the one it is to replace: counted on rows that both answer.

A device later counts the same on its probes and on live traffic, and a rollout judges what is beyond the count here. So
where several slices were measured, the one with the higher rate is the word of the package: what is usual on the people
a model has never seen must not stop a rollout because those it knows look steadier, or the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.compile.evaluate import answer_with
from hybridge_cloud.package import read_package
from hybridge_cloud.training.task import Arrays
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.package import Package


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows to compare on: raw inputs by name, each (rows, ...), and what the new package answers, (rows, ...)."""

    name: str
    inputs: Arrays
    answers: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Count:
    """What was counted on one slice."""

    slice: str
    rows: int
    disagreed: int

    @property
    def rate(self) -> float:
        return self.disagreed / self.rows


@dataclass(frozen=True, slots=True)
class Measured:
    """A comparison with one other package. ``comparison`` is the manifest's; ``counts`` are of every slice."""

    version: str
    comparison: Comparison
    counts: tuple[Count, ...]


def read_other(folder: Path, name: str, inputs: tuple[TensorSpec, ...], confidence_output: str) -> Package:
    """Read a package to compare with.

    Args:
        name, inputs, confidence_output: of the package that is being made.

    Raises:
        UsageError: no package there. PackageRefused: its files are not what its manifest says.
        Refused: it is of another model, or takes or gives something else, so that the two cannot be compared.
    """
    package = read_package(folder)
    other = package.manifest
    reason = ""
    if other.name != name:
        reason = f"it is a package of {other.name!r}, not of {name!r}"
    elif _signature(other.inputs) != _signature(inputs):
        reason = "it takes other inputs"
    elif not confidence_output or other.confidence_output != confidence_output:
        reason = f"its confidence output is {other.confidence_output!r} where this one's is {confidence_output!r}"
    if reason:
        raise Refused(
            f"The package in {str(folder)!r} cannot be compared with: {reason}.",
            "Name a package of the same model with --against, or leave it out: its rollout will then be held.",
        )
    return package


def measure(other: Package, slices: tuple[Slice, ...]) -> Measured:
    """Answer every slice with the other package's own graphs and count where its answer stands elsewhere."""
    counts = []
    for part in slices:
        answers = answer_with(other, part.inputs)[other.manifest.confidence_output]
        counts.append(Count(part.name, len(answers), disagreements(part.answers, answers)))
    worst = max(counts, key=lambda count: count.rate)
    return Measured(other.manifest.version, Comparison(other.digest, worst.rows, worst.disagreed), tuple(counts))


def disagreements(first: NDArray[Any], second: NDArray[Any]) -> int:
    """On how many rows the largest value stands elsewhere. Both are (rows, ...); the rest may differ in size."""
    return int((_largest(first) != _largest(second)).sum())


def _largest(answers: NDArray[Any]) -> NDArray[np.int64]:
    positions: NDArray[np.int64] = answers.reshape(len(answers), -1).argmax(1)
    return positions


def _signature(specs: tuple[TensorSpec, ...]) -> Mapping[str, tuple[str, tuple[int, ...]]]:
    return {spec.name: (spec.datatype, spec.shape) for spec in specs}
