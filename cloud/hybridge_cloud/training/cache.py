"""Where converted data may stay between commands."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``HYBRIDGE_CACHE``, else ``XDG_CACHE_HOME/hybridge``, else ``~/.cache/hybridge``; made where it is missing.

    Source of the default: XDG Base Directory Specification 0.8.
    """
    own = os.environ.get("HYBRIDGE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(own) if own else Path(base, "hybridge")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
