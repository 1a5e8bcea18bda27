"""A folder that only one server may use at a time."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from hybridge_edge import private
from hybridge_edge.contract.errors import Conflict, Refused

WAIT_S = 15.0
"""A predecessor that was killed leaves a worker that still drains; this long it is waited for."""
_POLL_S = 0.05


def take(path: Path, what: str, wait_s: float = WAIT_S) -> int:
    """Lock the file ``path``, made if need be; returns a descriptor that holds the lock until every copy is closed.

    Raises:
        Conflict: another process still holds it after ``wait_s`` seconds. Refused: the folder cannot be made or used,
        is a link, somebody else's, or may be written by others.
    """
    private.folder(path.parent, what)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Refused(f"{path.parent} cannot be used for {what}: {error.strerror}.", "Name another one.") from None
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                raise Conflict(f"Another server uses {what} {path.parent}.", "Stop it, or name another one.") from None
            time.sleep(_POLL_S)
