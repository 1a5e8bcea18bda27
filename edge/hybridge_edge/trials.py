"""Who was running when the worker died: marks around the loads and first runs of a digest, and a count of deaths.

    STORE/trials/HEX.running    there while the digest is being loaded or, until it is trusted, answers a request
    STORE/trials/HEX            how often the worker died meanwhile

The worker makes and removes the marks, the supervisor counts. A mark need not survive a power cut, only a dead process,
so it costs no fsync; one that does survive is counted like any other.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from threading import Lock
from types import TracebackType

from hybridge_edge import durable
from hybridge_edge.contract.errors import SpoolFull

_LOG = logging.getLogger(__name__)
FOLDER = "trials"
_RUNNING = ".running"


class Trial:
    """Marks a digest while at least one thread is inside ``with trial:``."""

    def __init__(self, store: Path, digest: str) -> None:
        self._mark = _path(store, digest).with_suffix(_RUNNING)
        self._lock = Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                try:
                    os.close(os.open(self._mark, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
                except OSError as error:  # a full disk costs the evidence of a crash, not the request
                    _LOG.warning("The mark %s cannot be made: %s.", self._mark, error.strerror)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._mark.unlink(missing_ok=True)


def forget(store: Path, digest: str) -> None:
    """The digest is trusted, or may not run at all: its count is over."""
    path = _path(store, digest)
    if path.exists():
        durable.remove(path)


def crashes(store: Path, digest: str) -> int:
    """How often the worker died with this digest marked."""
    return _count(_path(store, digest))


def count_crash(store: Path) -> None:
    """The supervisor's part, where a worker died: every digest that was marked has one death more."""
    folder = store / FOLDER
    if not folder.is_dir():
        return
    for mark in folder.glob(f"*{_RUNNING}"):
        path = mark.with_suffix("")
        try:
            durable.write(path, b"%d\n" % (_count(path) + 1))
        except (SpoolFull, OSError) as error:  # the mark stays, to be counted once there is room: serving goes first
            _LOG.error("A death with %s marked is not counted: %s", path.name[:12], error)
            continue
        mark.unlink()


def _path(store: Path, digest: str) -> Path:
    return store / FOLDER / digest.removeprefix("sha256:")


def _count(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:  # damaged: that there is a count means that there was a death
        return 1
