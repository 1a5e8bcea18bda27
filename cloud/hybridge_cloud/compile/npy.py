"""Arrays as .npy files that every numpy reads without pickle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The content of a .npy file; equal arrays give equal bytes."""
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def read_npy(content: bytes) -> NDArray[Any]:
    """The array of a .npy file. Raises ValueError where it is none, or holds objects."""
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
