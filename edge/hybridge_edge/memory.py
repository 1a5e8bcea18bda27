"""What the C library's allocator holds without need."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def return_freed() -> None:
    """Give pages that were freed back to the system (malloc_trim(3)); a C library without that call keeps them.

    Worth it after a model is loaded: reading its graph takes a multiple of its size for a moment, which would otherwise
    stay with the process. Takes a few milliseconds for each 100 MB.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # musl has none
        return None
