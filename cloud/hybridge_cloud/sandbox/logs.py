"""Logs of the sandbox's processes, bounded in size and number."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_LIMIT_BYTES = 10 * 1024 * 1024
"""A log larger than this is set aside; one generation is kept beside it."""
KEPT_BUILD_LOGS = 200


def open_log(path: Path) -> int:
    """A descriptor that appends to a log."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def bound(folder: Path) -> None:
    """Set aside what has grown too large and remove the oldest build logs.

    Every writer appends, so a file can be emptied under it: the next line goes to the new start.
    """
    for log in folder.glob("**/*.log"):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            try:
                shutil.copyfile(log, log.with_name(log.name + ".1"))
            finally:
                os.truncate(log, 0)  # also where the disk is full: a log must not keep it so
    builds = sorted((folder / "builds").glob("*.log*"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in builds[KEPT_BUILD_LOGS:]:
        log.unlink(missing_ok=True)
