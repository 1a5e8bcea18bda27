"""Probes: raw held-out inputs that a device answers with this package and with the one before, in turns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.compile.npy import npy_bytes
from hybridge_cloud.training.task import Samples
from hybridge_edge.contract.examination import Probe

PROBE_ROWS = 128
"""At most so many rows: enough to tell a disagreement of a few percent from none, small beside most models."""
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class ProbeFiles:
    """The manifest's entries, the content of their files by path, and how many rows each holds."""

    probes: tuple[Probe, ...]
    files: dict[str, bytes]
    rows: int

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def probe_files(samples: Samples) -> ProbeFiles:
    """At most PROBE_ROWS of the samples' raw inputs, as equally spread over their groups as these allow."""
    rows = spread(samples.groups, PROBE_ROWS)
    plain = all(_FILE_NAME.fullmatch(name) for name in samples.inputs)
    probes, files = [], {}
    for index, (name, array) in enumerate(samples.inputs.items()):
        path = f"probes/{name if plain else index}.npy"
        probes.append(Probe(name, path))
        files[path] = npy_bytes(array[rows])
    return ProbeFiles(tuple(probes), files, len(rows))


def spread(groups: NDArray[Any], limit: int) -> NDArray[np.int64]:
    """At most ``limit`` row numbers, ascending: in turns one of each group, those of a group evenly over its rows.

    Args:
        groups: (rows,) the group of each row. The same groups give the same choice.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    members = [members[index] for index in _evenly(len(members), limit)]
    quotas = [0] * len(members)
    left = min(limit, sum(map(len, members)))
    while left:
        for index, rows in enumerate(members):
            if left and quotas[index] < len(rows):
                quotas[index] += 1
                left -= 1
    return np.sort(
        np.concatenate([rows[_evenly(len(rows), quota)] for rows, quota in zip(members, quotas, strict=True)])
    )


def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    """At most ``limit`` different numbers below ``count``, evenly spaced."""
    return np.linspace(0, count - 1, min(limit, count)).astype(np.int64)
