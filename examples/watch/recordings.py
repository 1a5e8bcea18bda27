"""The smartwatch recordings: found in the installed ``seglearn``, checked, and converted once to plain arrays.

The source is a pickled file, so its SHA-256 is compared before it is opened; afterwards only the converted .npz is
read. Cutting is by time, and no window crosses a cut: see ``cut``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.training.cache import cache_folder
from hybridge_edge import durable
from hybridge_edge.contract.errors import Refused

SOURCE_SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
RATE_HZ = 50
WINDOW_STEPS = 4 * RATE_HZ
CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
_GET_DATA = "Install it with: pip install --no-deps seglearn==1.2.5."


@dataclass(frozen=True, slots=True)
class Recording:
    """One person doing one exercise with one arm.

    Attributes:
        number: its place in the source, 0 to 139. values: (steps, 6) float32 at 50 Hz, as the source gives.
        exercise: index into EXERCISES. person: 1 to 10.
    """

    number: int
    values: NDArray[np.float32]
    exercise: int
    person: int


def load() -> tuple[Recording, ...]:
    """All 140 recordings in the source's order. Raises Refused where the data is missing or not the expected file."""
    cached = cache_folder() / f"watch-{SOURCE_SHA256[:12]}.npz"
    try:
        return _read(cached)
    except (OSError, ValueError, KeyError, BadZipFile):  # not there yet, or damaged: made again from the source
        _convert(_source(), cached)
        return _read(cached)


def cut(recording: Recording, begin: float, end: float, hop: int) -> list[tuple[str, NDArray[np.float32]]]:
    """Windows that lie wholly between two fractions of a recording, ``hop`` steps apart, as (sample id, (200, 6))."""
    first, last = int(begin * len(recording.values)), int(end * len(recording.values))
    starts = range(first, last - WINDOW_STEPS + 1, hop)
    return [(f"watch/{recording.number}/{start}", recording.values[start : start + WINDOW_STEPS]) for start in starts]


def _read(plain: Path) -> tuple[Recording, ...]:
    with np.load(plain, allow_pickle=False) as data:
        values, ends, exercise, person = (data[name] for name in ("values", "ends", "exercise", "person"))
    parts = np.split(values, ends[:-1])
    return tuple(Recording(n, parts[n], int(exercise[n]), int(person[n])) for n in range(len(parts)))


def _source() -> Path:
    spec = importlib.util.find_spec("seglearn")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(places[0], "data", "watch_dataset.npy") if places else None
    if path is None or not path.is_file():
        raise Refused("The smartwatch recordings are not installed (seglearn 1.2.5).", _GET_DATA)
    return path


def _convert(source: Path, target: Path) -> None:
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        raise Refused("The smartwatch recordings are not those of seglearn 1.2.5: their SHA-256 differs.", _GET_DATA)
    data: dict[str, Any] = np.load(io.BytesIO(content), allow_pickle=True).item()
    series = [np.asarray(values, np.float32) for values in data["X"]]
    plain = io.BytesIO()
    np.savez_compressed(
        plain,
        values=np.concatenate(series),
        ends=np.cumsum([len(values) for values in series]),
        exercise=np.asarray(data["y"], np.int64),
        person=np.asarray(data["subject"], np.int64),
    )
    durable.write(target, plain.getvalue())
