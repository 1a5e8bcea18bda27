"""Where a core device keeps things: the root's layout is Greengrass's own, the same for both nuclei."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge.contract.errors import Refused

SOCKET_PATH_LONGEST = 100
"""Bytes; unix(7) allows 107."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files below one root."""

    root: Path
    socket_name: str

    @property
    def recipes(self) -> Path:
        return self.root / "packages" / "recipes"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def processes(self) -> Path:
        return self.root / "processes.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def mqtt(self) -> Path:
        return self.root / "mqtt.json"

    def artifacts(self, component: str, version: str) -> Path:
        return self.root / "packages" / "artifacts" / component / version

    def unarchived(self, component: str, version: str) -> Path:
        return self.root / "packages" / "artifacts-unarchived" / component / version

    def work(self, component: str) -> Path:
        return self.root / "work" / component

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def prepare(self) -> None:
        """Make the folders that every start needs."""
        for folder in (self.recipes, self.logs, self.root / "work"):
            folder.mkdir(parents=True, exist_ok=True)

    def socket(self) -> Path:
        """The IPC socket: in the root where its path is short enough, else in a private folder below /tmp.

        The path is a function of the root alone, since components derive their own places from it.

        Raises:
            Refused: the private folder is not ours, or is open to others.
        """
        inside = self.root / self.socket_name
        if len(os.fsencode(inside)) <= SOCKET_PATH_LONGEST:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        base = Path(f"/tmp/hybridge-core-{os.getuid()}")  # noqa: S108  owner and mode are checked
        return _private(_private(base) / digest) / self.socket_name


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(
            f"The socket folder {folder} is not a folder of this user with mode 0700.",
            "Remove it, or give the core device a root with a shorter path.",
        )
    return folder
