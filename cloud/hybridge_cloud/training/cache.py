"""Where converted data may stay between commands."""

from __future__ import annotations

import os
from pathlib import Path

from hybridge_edge.contract.errors import Refused

_ELSEWHERE = "Name a folder you may write with HYBRIDGE_CACHE."


def cache_folder() -> Path:
    """``HYBRIDGE_CACHE``, else ``XDG_CACHE_HOME/hybridge``, else ``~/.cache/hybridge``; made where it is missing.

    Source of the default: XDG Base Directory Specification 0.8. Raises Refused where it cannot be made or written.
    """
    own = os.environ.get("HYBRIDGE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(own) if own else Path(base, "hybridge")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"The cache {str(folder)!r} cannot be made: {error.strerror}.", _ELSEWHERE) from None
    if not os.access(folder, os.W_OK):
        raise Refused(f"The cache {str(folder)!r} cannot be written.", _ELSEWHERE)
    return folder
