"""Named points at which a test can have the process die, as kill -9 or a power cut would have it.

``HYBRIDGE_FAILPOINT=NAME`` kills this process there; ``tree:NAME`` kills its supervisor first. Unset, a point costs one
comparison. Each point is named once in POINTS: tests/edge/admission/test_failpoints.py holds the code to it.
"""

from __future__ import annotations

import os
import signal

_TREE = "tree:"
POINTS = (
    "store.leftover-removed",
    "store.ledger-aside",
    "store.ledger-written",
    "store.trials-forgotten",
    "store.incoming-made",
    "package.file-copied",
    "store.copied",
    "store.installed",
    "store.discarding",
    "store.discarded",
    "passed.written",
    "trial.started",
    "trial.ended",
    "activation.verified",
    "activation.linted",
    "activation.installed",
    "activation.loading",
    "activation.loaded",
    "activation.proven",
    "activation.persisted",
    "activation.switched",
    "activation.collected",
    "activation.retired",
    "fallback.condemned",
    "fallback.loading",
    "fallback.loaded",
    "fallback.persisted",
    "fallback.switched",
    "restore.loading",
    "compare.loading",
)


def reach(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get("HYBRIDGE_FAILPOINT", "")
    if not wanted or wanted.removeprefix(_TREE) != name:
        return
    if wanted.startswith(_TREE):
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
