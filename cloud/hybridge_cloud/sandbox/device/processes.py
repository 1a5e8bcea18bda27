"""Component processes: each script in its own process group, its output in a bounded log, nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

_CHUNK = 64 * 1024
_LAST_OUTPUT = 2.0
"""Seconds to wait for output after a whole process group is gone."""
_GONE_POLL = 0.02


class Log:
    """A component's output on disk: one file of bounded size, and the one before it."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        if self._file.tell() + len(data) > self._limit:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)
        self._file.write(data)

    def close(self) -> None:
        self._file.close()


class Ledger:
    """Which process groups are ours, on disk, so that a nucleus started after a kill -9 finds its orphans."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._running: dict[int, int] = {}

    def add(self, pid: int) -> None:
        started = start_time(pid)
        if started is not None:
            self._running[pid] = started
            self._write()

    def remove(self, pid: int) -> None:
        if self._running.pop(pid, None) is not None:
            self._write()

    def recorded(self) -> Mapping[int, int]:
        """Process group to its leader's start time, as the last nucleus left them."""
        try:
            return {int(pid): int(started) for pid, started in json.loads(self._path.read_bytes()).items()}
        except (FileNotFoundError, ValueError):
            return {}

    def _write(self) -> None:
        # Replaced whole, but not synced: a power cut ends the processes too.
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._running))
        temporary.replace(self._path)


class Process:
    """One running script; ``code`` is its exit status, negative for a signal, once ``ended`` is set."""

    def __init__(
        self,
        child: asyncio.subprocess.Process,
        log: Log,
        ledger: Ledger,
        output: asyncio.Task[None],
        leaves: bool,
    ) -> None:
        self._child = child
        self._leaves = leaves
        self._log = log
        self._ledger = ledger
        self._output = output
        self.pid = child.pid
        self._end = asyncio.create_task(self._wait())

    async def wait(self) -> int:
        """The exit status; no member of the process group lives on after this, unless it ``leaves`` some."""
        return await asyncio.shield(self._end)

    async def stop(self, within: float) -> int:
        """SIGTERM to the group, then SIGKILL after ``within`` seconds."""
        _signal(self.pid, signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), within)
        except TimeoutError:
            _signal(self.pid, signal.SIGKILL)
            return await self.wait()

    async def drained(self) -> None:
        """Wait, bounded, for the last output of what a script left, once that has ended."""
        await asyncio.wait([self._output], timeout=_LAST_OUTPUT)

    async def _wait(self) -> int:
        code = await self._child.wait()
        if self._leaves and code == 0:
            self._output.add_done_callback(lambda _: self._log.close())
            self._ledger.remove(self.pid)
            return code
        if _signal(self.pid, signal.SIGKILL):  # what the script left in its group
            deadline = time.monotonic() + _LAST_OUTPUT
            while _group_lives(self.pid) and time.monotonic() < deadline:
                await asyncio.sleep(_GONE_POLL)
        done, _ = await asyncio.wait([self._output], timeout=_LAST_OUTPUT)
        if not done:
            self._output.cancel()
        self._ledger.remove(self.pid)
        self._log.close()
        return code


async def launch(
    script: str,
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    limit: int,
    ledger: Ledger,
    *,
    leaves: bool = False,
) -> Process:
    """Run ``sh -c script`` in ``folder`` with exactly this environment and umask 022.

    Args:
        limit: bytes of its log. leaves: where it succeeds, what it started in the background lives on (``startup``).
    """
    output = Log(log, limit)
    read_end, write_end = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            script,
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
            umask=0o022,
        )
    except BaseException:
        os.close(read_end)
        output.close()
        raise
    finally:
        os.close(write_end)
    ledger.add(child.pid)
    return Process(child, output, ledger, asyncio.create_task(_copy(read_end, output)), leaves)


async def _copy(read_end: int, log: Log) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_CHUNK)
    pipe = os.fdopen(read_end, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while data := await reader.read(_CHUNK):
            log.write(data)
    finally:
        transport.close()


def _signal(group: int, number: int) -> bool:
    """Signal a process group; whether it had a member, be it a zombie."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _group_lives(group: int) -> bool:
    """Whether a member of the group still runs: a killed process is there, without its files, until it has ended."""
    return any(found == group for _, found, _ in _ours())


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), stat field 22); None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def stop_orphans(ledger: Ledger, socket: Path, within: float) -> list[int]:
    """End what an earlier nucleus of this root left running, and return their process ids.

    They are known by the ledger (process groups with the start time of their leader), and by the IPC socket in their
    environment, which also finds those that left their group.
    """
    found = set(_orphans(ledger.recorded(), socket))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + within
    while any(start_time(pid) is not None for pid in found) and time.monotonic() < deadline:
        time.sleep(_GONE_POLL)
    # Again, for what they started meanwhile.
    rest = {pid for pid in found if start_time(pid) is not None} | set(_orphans(ledger.recorded(), socket))
    for pid in rest:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while any(start_time(pid) is not None for pid in rest):
        time.sleep(_GONE_POLL)
    return sorted(found | rest)


def end_marked(variable: str, value: str, within: float = 0.0) -> None:
    """End every process of ours with this in its environment, in whatever group it is.

    Args:
        within: seconds from SIGTERM to SIGKILL; 0: SIGKILL at once.
    """
    mark = f"{variable}={value}".encode()
    deadline = time.monotonic() + within
    number = signal.SIGTERM if within else signal.SIGKILL
    while found := [pid for pid, _, environment in _ours() if mark in environment]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number is signal.SIGKILL:
            return
        while any(start_time(pid) is not None for pid in found) and time.monotonic() < deadline:
            time.sleep(_GONE_POLL)
        if time.monotonic() >= deadline:
            number = signal.SIGKILL


def _orphans(recorded: Mapping[int, int], socket: Path) -> Iterator[int]:
    mark = f"AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT={socket}".encode()
    for pid, group, environment in _ours():
        if mark in environment or (group in recorded and recorded[group] == start_time(group)):
            yield pid


def _ours() -> Iterator[tuple[int, int, list[bytes]]]:
    """Every other living process of this user: its id, its group, its environment."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        try:
            if entry.stat().st_uid != os.getuid() or start_time(pid) is None:
                continue
            yield pid, os.getpgid(pid), (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
