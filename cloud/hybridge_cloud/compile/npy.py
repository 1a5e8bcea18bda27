"""Arrays as .npy files that every numpy reads without pickle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.arrays import for_file, from_file


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The content of a .npy file; equal arrays give equal bytes. BYTES: see ``for_file``."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(for_file(array)), allow_pickle=False)
    return content.getvalue()


def read_npy(content: bytes) -> NDArray[Any]:
    """The array of a .npy file. Raises ValueError where it is none, or holds objects."""
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return from_file(array)
