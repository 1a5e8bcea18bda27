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
MINIMUM_TELLING = 8
"""Windows on which two versions must differ by ten tolerances, or their answers prove nothing."""


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
class Numbers:
    """What one version gives for every window asked, or several versions that give the same.

    Attributes:
        versions: sorted. outputs: (windows, classes) float32.
    """

    versions: tuple[str, ...]
    outputs: NDArray[np.float32]

    @property
    def name(self) -> str:
        return " = ".join(self.versions)


@dataclass(frozen=True, slots=True)
class Proof:
    """The answers of one device, sorted by whose numbers they carry.

    Attributes:
        proven: answers that carry the numbers of one name of ``Numbers`` and of no other. either: of more than one.
        mislabelled: answers that carry only numbers of other versions than the server said.
        unknown: OK answers that carry no version's numbers. failed: requests not answered OK in time.
        switched_at: seconds since 1970 of the first proven answer, by name. last: name of the last one.
    """

    device: str
    requests: int
    failed: int
    proven: dict[str, int]
    either: int
    mislabelled: int
    unknown: int
    switched_at: dict[str, float]
    last: str


def distinct(expected: Mapping[str, NDArray[np.float32]]) -> tuple[Numbers, ...]:
    """The different numbers among versions: those that agree on every window stand together.

    Args:
        expected: version -> (windows, classes) float32, the outputs of that package's own graphs.

    Raises:
        Refused: two versions differ, but on too few windows to prove anything.
    """
    found: list[Numbers] = []
    for version in sorted(expected):
        outputs = expected[version]
        for place, other in enumerate(found):
            gaps = np.abs(outputs - other.outputs).max(axis=1)
            if (gaps < TOLERANCE).all():
                found[place] = Numbers((*other.versions, version), other.outputs)
                break
            if int((gaps > 10 * TOLERANCE).sum()) < MINIMUM_TELLING:
                raise Refused(
                    f"Versions {other.name} and {version} hardly differ on the windows asked; that proves nothing.",
                    "Ask more windows.",
                )
        else:
            found.append(Numbers((version,), outputs))
    return tuple(found)


def matches(record: LoadRecord, known: tuple[Numbers, ...]) -> dict[str, NDArray[np.bool_]]:
    """Name of numbers -> (requests,) whether the answer carries them; an answer may carry the numbers of several."""
    whole = (record.code == 0) & ~np.isnan(record.answer).any(axis=1)
    answers = np.nan_to_num(record.answer)
    return {
        item.name: whole & (np.abs(answers - item.outputs[record.probe]).max(axis=1, initial=0.0) < TOLERANCE)
        for item in known
    }


def prove(record: LoadRecord, known: tuple[Numbers, ...]) -> Proof:
    """Sort every answer by whose numbers it carries."""
    answered = record.code == 0
    carried = matches(record, known)
    count = np.zeros(len(answered), np.int64)
    as_said = np.zeros(len(answered), bool)
    for item in known:
        count += carried[item.name]
        as_said |= carried[item.name] & np.isin(record.version, item.versions)
    rows = {name: np.flatnonzero(match & (count == 1)) for name, match in carried.items()}
    seen = {name: found for name, found in rows.items() if len(found)}
    return Proof(
        device=record.device,
        requests=len(answered),
        failed=int((~answered).sum()),
        proven={name: len(found) for name, found in rows.items()},
        either=int((count > 1).sum()),
        mislabelled=int(((count > 0) & ~as_said).sum()),
        unknown=int((answered & (count == 0)).sum()),
        switched_at={name: float(record.sent_at[found[0]]) for name, found in seen.items()},
        last=max(seen, key=lambda name: int(seen[name][-1]), default=""),
    )
