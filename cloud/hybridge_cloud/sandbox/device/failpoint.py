"""Named points of a core device's life at which a test cuts its power: everything it runs is killed, then itself.

``HYBRIDGE_CORE_FAILPOINT=PATH``: the file ``PATH.PID`` holds the point's name, so that a process can be told late;
unset, a point costs one look-up. Every durable step has a point before or behind it;
tests/sandbox/device/test_power_cut.py goes through them all, and holds the code to this list.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "HYBRIDGE_CORE_FAILPOINT"
DEPLOYMENT_POINTS = (
    "deployment.taken",
    "artifact.part-written",
    "artifact.checked",
    "artifact.placed",
    "archive.entry-written",
    "archive.placed",
    "recipe.written",
    "deployment.prepared",
    "deployment.stopped",
    "deployment.committed",
    "component.started",
    "component.installed",
    "deployment.judged",
    "deployment.ended",
    "report.sent",
    "artifacts.removed",
)
ROLLBACK_POINTS = ("rollback.stopped", "rollback.committed", "rollback.judged")
"""Classic only."""


def reach(name: str) -> None:
    """Die here, with every process below this one, if the environment says so."""
    path = os.environ.get(VARIABLE)
    if not path:
        return
    try:
        wanted = Path(f"{path}.{os.getpid()}").read_text()
    except FileNotFoundError:
        return
    if wanted != name:
        return
    import psutil

    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            pass  # it was quicker
    os.kill(os.getpid(), signal.SIGKILL)
