"""Golden tensors: a few held-out inputs and what torch answered. A device runs them before it serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybridge_cloud.compile.npy import npy_bytes
from hybridge_cloud.compile.parity import Reference
from hybridge_cloud.training.project import ParityConfig
from hybridge_cloud.training.task import Samples
from hybridge_edge.contract.examination import Golden, GoldenTensor

GOLDEN_ROWS = 8


@dataclass(frozen=True, slots=True)
class GoldenFiles:
    """The manifest's entry, and the content of its files by path."""

    golden: Golden
    files: dict[str, bytes]


def golden_files(samples: Samples, wanted: Reference, config: ParityConfig) -> GoldenFiles:
    """GOLDEN_ROWS rows spread over the held-out ones, inputs and torch's outputs, as .npy files."""
    rows = np.linspace(0, len(samples) - 1, min(GOLDEN_ROWS, len(samples))).astype(np.int64)
    tensors, files = [], {}
    for role, arrays in (("input", samples.inputs), ("output", wanted.outputs)):
        for index, (name, array) in enumerate(arrays.items()):
            path = f"golden/{role}-{index}.npy"
            files[path] = npy_bytes(array[rows])
            tensors.append(GoldenTensor(role, name, path))
    return GoldenFiles(Golden(tuple(tensors), config.rtol, config.atol), files)
