"""A server as a process tree: started with its log in a file, measured from /proc, ended whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STOP_S = 10.0
_LAST_LINES = 3
_LINE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a whole tree, in MB: resident pages added up process by process, and with shared pages counted once."""

    resident: float
    proportional: float


NOTHING = Memory(0.0, 0.0)


@dataclass(slots=True)
class Tree:
    """A process of ours with everything below it."""

    process: subprocess.Popen[bytes]
    log: Path
    _known: dict[int, psutil.Process] = field(default_factory=dict)

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> Tree:
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        return cls(process, log)

    def ended(self) -> str:
        """How it ended and its last words, or "" while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"ended with {code}: {self.last_words()}"

    def last_words(self) -> str:
        """The last lines of its log, and before them the last that speak of an error."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        earlier = [line for line in lines[:-_LAST_LINES] if "error" in line.lower()]
        said = (*earlier[-_LAST_LINES:], *lines[-_LAST_LINES:])
        return " | ".join(line[:_LINE_CHARACTERS] for line in said) or "it said nothing"

    def cpu_seconds(self) -> float:
        """User and system time of the tree since it began, ended children that were waited for included."""
        total = 0.0
        for one in self._members():
            try:
                times = one.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> Memory:
        resident = proportional = 0
        for one in self._members():
            try:
                resident += one.memory_info().rss
                proportional += one.memory_full_info().pss
            except psutil.Error:
                continue
        return Memory(round(resident / 1e6, 1), round(proportional / 1e6, 1))

    def stop(self) -> None:
        """SIGTERM to the first process; what is left after STOP_S of all that it started is killed."""
        members = self._members()
        if self.process.poll() is None:
            self.process.terminate()
        _, left = psutil.wait_procs(members, STOP_S)
        for one in left:
            try:
                one.kill()  # checks that the id is still this process
            except psutil.Error:
                pass
        self.process.wait()

    def _members(self) -> list[psutil.Process]:
        """The process and its descendants, also such as were seen once and belong to nobody of the tree any more."""
        try:
            root = psutil.Process(self.process.pid)
            for one in (root, *root.children(recursive=True)):
                self._known.setdefault(one.pid, one)
        except psutil.Error:
            pass
        for one in psutil.process_iter():
            if one.pid not in self._known and _session(one.pid) == self.process.pid:
                self._known[one.pid] = one
        self._known = {pid: one for pid, one in self._known.items() if one.is_running()}
        return list(self._known.values())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def end_on_sigterm() -> None:
    """Have SIGTERM unwind this program like an exit, so that what it started ends with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def surroundings(**more: str) -> dict[str, str]:
    """The environment variables that every contender gets alike, and ``more``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDGE_", "AWS_", "PYTHON"))}
    return {**kept, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **more}
