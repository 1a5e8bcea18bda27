"""Folders and files of this user's own: no links, nobody else's, and nobody else may write them.

Whoever else can write where a server keeps its state, or plant a link there before it starts, could have it serve,
overwrite or remove what he chooses. The server refuses to start then, and touches nothing.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hybridge_edge.contract.errors import Refused

_OTHERS_WRITE = 0o022
_OTHERS = 0o077


def folder(path: Path, what: str, *, hidden: bool = False) -> Path:
    """Make the folder, 0700, if it is not there; its parents are made too and not judged.

    Args:
        what: what to call it. hidden: others may not even look into it.

    Raises:
        Refused: it cannot be made, is no folder or a link, belongs to somebody else, or is open to others.
    """
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise Refused(f"{_named(what)} {path} cannot be made: {error.strerror}.", "Name another one.") from None
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{_named(what)} {path} is a link, or no folder.", "Remove it, or name another one.")
    _check(found, path, what, _OTHERS if hidden else _OTHERS_WRITE)
    return path


def file(path: Path, what: str) -> None:
    """Refuse a file that is a link, no plain file, somebody else's or open to others; none at all is fine."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{_named(what)} {path} is a link, or no file.", "Remove it.")
    _check(found, path, what, _OTHERS_WRITE)


def _check(found: os.stat_result, path: Path, what: str, forbidden: int) -> None:
    if found.st_uid != os.getuid():
        raise Refused(
            f"{_named(what)} {path} belongs to user {found.st_uid}, and this server runs as {os.getuid()}.",
            "Give it to the server's user, or name another one.",
        )
    if found.st_mode & forbidden:
        raise Refused(
            f"{_named(what)} {path} has mode {stat.S_IMODE(found.st_mode):04o}: others may use it.",
            "Run chmod go-rwx on it once you know who wrote what is in it.",
        )


def _named(what: str) -> str:
    return what[0].upper() + what[1:]
