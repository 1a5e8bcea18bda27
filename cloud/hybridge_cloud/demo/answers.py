"""Which version answered: proven from the numbers in the answers, not from what the server says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract.errors import Refused

TOLERANCE = 1e-4
"""Largest difference of a probability between the same graphs here and on a device; versions differ by far more."""


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """What one device answered; arrays as demo.load writes them."""

    device: str
    sent_at: NDArray[np.float64]
    latency: NDArray[np.float64]
    code: NDArray[np.int16]
    probe: NDArray[np.int16]
    version: NDArray[np.str_]
    answer: NDArray[np.float32]

    @classmethod
    def read(cls, path: Path) -> LoadRecord:
        with np.load(path, allow_pickle=False) as data:
            return cls(
                path.stem, *(data[name] for name in ("sent_at", "latency", "code", "probe", "version", "answer"))
            )


@dataclass(frozen=True, slots=True)
class Proof:
    """The answers of one device, sorted by the version whose numbers they carry.

    Attributes:
        proven: answers per version. mislabelled: answers whose numbers are of another version than the server said.
        unknown: OK answers that are of no version. failed: requests not answered OK in time.
        switched_at: seconds since 1970 of the first proven answer, by version. last: version of the last answer.
    """

    device: str
    requests: int
    failed: int
    proven: dict[str, int]
    mislabelled: int
    unknown: int
    switched_at: dict[str, float]
    last: str


def matches(record: LoadRecord, expected: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.bool_]]:
    """Which requests were answered with the numbers of which version.

    Args:
        expected: version -> (probes, classes) float32, the outputs of that package's own graphs.

    Raises:
        Refused: two versions give the same numbers for a probe, so that nothing could be proven.
    """
    if (gap := tell_apart(expected)) < 10 * TOLERANCE:
        raise Refused(
            f"Two versions differ by {gap:.2g} at most on a probe; that proves nothing.", "Choose other probe windows."
        )
    whole = (record.code == 0) & ~np.isnan(record.answer).any(axis=1)
    return {
        version: whole & (np.abs(np.nan_to_num(record.answer) - outputs[record.probe]).max(axis=1) < TOLERANCE)
        for version, outputs in expected.items()
    }


def prove(record: LoadRecord, expected: Mapping[str, NDArray[np.float32]]) -> Proof:
    """Sort every answer by the version whose numbers it carries; arguments and errors as ``matches``."""
    answered = record.code == 0
    by_version = matches(record, expected)
    known = np.zeros(len(answered), bool)
    for match in by_version.values():
        known |= match
    rows = {version: np.flatnonzero(match) for version, match in by_version.items()}
    seen = {version: found for version, found in rows.items() if len(found)}
    return Proof(
        device=record.device,
        requests=len(answered),
        failed=int((~answered).sum()),
        proven={version: len(found) for version, found in rows.items()},
        mislabelled=sum(int((record.version[found] != version).sum()) for version, found in rows.items()),
        unknown=int((answered & ~known).sum()),
        switched_at={version: float(record.sent_at[found[0]]) for version, found in seen.items()},
        last=max(seen, key=lambda version: int(seen[version][-1]), default=""),
    )


def tell_apart(expected: Mapping[str, NDArray[np.float32]]) -> float:
    """The smallest over probes of the largest difference between two versions: below TOLERANCE nothing is proven."""
    versions = sorted(expected)
    gaps = [
        float(np.abs(expected[first] - expected[second]).max(axis=1).min())
        for index, first in enumerate(versions)
        for second in versions[index + 1 :]
    ]
    return min(gaps, default=float("inf"))
