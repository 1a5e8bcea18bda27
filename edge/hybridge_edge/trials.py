"""Crash markers: before a digest's first runs a file names it, and each death of the worker meanwhile adds one to it.

The worker writes and removes markers, the supervisor counts; a power cut or a stop counts nothing.
"""

from __future__ import annotations

from pathlib import Path

from hybridge_edge import durable

FOLDER = "trials"


def begin(store: Path, digest: str) -> None:
    """Name the digest as the culprit of what may happen now."""
    if not _path(store, digest).exists():
        durable.write(_path(store, digest), b"0\n")


def end(store: Path, digest: str) -> None:
    """Its first runs are over, or it does not run at all."""
    durable.remove(_path(store, digest))


def crashes(store: Path, digest: str) -> int:
    """How often the worker died during this digest's trial; 0 where there is none."""
    return _count(_path(store, digest))


def count_crash(store: Path) -> None:
    """The supervisor's part: the worker died, so every trial under way counts one crash more."""
    folder = store / FOLDER
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if not path.name.startswith("."):  # a file that durable.write had under way
            durable.write(path, b"%d\n" % (_count(path) + 1))


def _path(store: Path, digest: str) -> Path:
    return store / FOLDER / digest.removeprefix("sha256:")


def _count(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:  # not ours or damaged: a marker is a marker
        return 1
