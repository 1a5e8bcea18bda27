"""Named points at which a test can have the process die, as kill -9 or a power cut would have it.

``HYBRIDGE_FAILPOINT=NAME`` kills this process there; ``tree:NAME`` kills its supervisor first. Unset, a point costs one
comparison.
"""

from __future__ import annotations

import os
import signal

_TREE = "tree:"


def reach(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("HYBRIDGE_FAILPOINT", "")
    if not wanted or wanted.removeprefix(_TREE) != name:
        return
    if wanted.startswith(_TREE):
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
