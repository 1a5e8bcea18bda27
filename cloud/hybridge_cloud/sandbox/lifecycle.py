"""Bring a sandbox up, say how it is, take it down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.sandbox import devices, logs, processes
from hybridge_cloud.sandbox.folder import BUCKET, Ports, Recorded, SandboxFolder, State, environment, mark
from hybridge_edge.contract.errors import Refused, Unavailable

DOWN_SECONDS = 70.0
"""Longer than the keeper's own graces together."""
LEFT_GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL for what a killed keeper left."""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A registered device and its process, if it runs."""

    device: devices.Device
    process: Recorded | None


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """How a sandbox is. ``up`` is true where its keeper runs and has everything started."""

    folder: SandboxFolder
    up: bool
    state: str
    ports: Ports | None
    processes: dict[str, Recorded]
    devices: list[DeviceStatus]


def status(folder: SandboxFolder) -> SandboxStatus:
    """Look at a sandbox; the recorded state counts only while the recorded processes live."""
    recorded = folder.read()
    if recorded is None:
        return SandboxStatus(folder, False, "down", None, {}, [])
    running = {name: process for name, process in recorded.processes.items() if processes.alive(process)}
    state = recorded.state if "keeper" in running else "down" if not running else "killed"
    listed = [DeviceStatus(device, devices.process(folder, device.name)) for device in devices.registered(folder)]
    return SandboxStatus(folder, state == "up", state, recorded.ports, running, listed)


def up(folder: SandboxFolder, buildspecs: str = "", owner: int | None = None) -> bool:
    """Start the sandbox of a folder.

    Args:
        buildspecs: folder of build projects; else the one of last time, else the checkout's.
        owner: a process with whose end the sandbox shall end too.

    Returns:
        True where it was started, False where it was up already.

    Raises:
        Refused: another process is starting or stopping it, or one of its ports is taken.
        Unavailable: a part of it did not start; its log is named.
    """
    if status(folder).up:
        return False
    folder.make()
    reading, writing = os.pipe()
    log = logs.open_log(folder.logs / "keeper.log")
    command = [sys.executable, "-m", "hybridge_cloud.sandbox.keeper", "--dir", str(folder.root)]
    command += ["--ready-descriptor", str(writing), *(["--buildspecs", buildspecs] if buildspecs else [])]
    command += ["--owner", str(owner)] if owner is not None else []
    try:
        keeper = subprocess.Popen(
            command,
            cwd=folder.root,
            env={**os.environ, **mark(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(writing,),
        )
    finally:
        os.close(writing)
        os.close(log)
    try:
        with os.fdopen(reading) as pipe:
            line = pipe.readline()
    except BaseException:
        # Ctrl-C: whoever does not get the sandbox leaves none behind.
        keeper.terminate()
        keeper.wait()
        raise
    if not line:
        keeper.wait()
        raise Unavailable("The sandbox's keeper ended while starting.", f"Read {folder.logs / 'keeper.log'}.")
    answer = json.loads(line)
    if not answer["ok"]:
        keeper.wait()
        raise Refused(answer["message"], answer["remedy"])
    return True


def down(folder: SandboxFolder) -> bool:
    """Stop everything of a sandbox, also what a killed keeper left behind.

    Returns:
        True where something was stopped, False where it was down already.
    """
    keeper = status(folder).processes.get("keeper")
    if keeper is not None:
        processes.send(keeper, signal.SIGTERM)
        _reap(keeper)
    left = processes.belonging(folder)
    if left:
        processes.stop(left, LEFT_GRACE_SECONDS)
        if (recorded := folder.read()) is not None:
            folder.write(State(recorded.ports, "down", {}, recorded.buildspecs))
    if still := processes.belonging(folder):
        raise Unavailable(f"{len(still)} processes of the sandbox did not end.", "Run 'hybridge sandbox down' again.")
    return keeper is not None or bool(left)


def _reap(keeper: Recorded) -> None:
    """Wait for the keeper's end; where it is our own child, take its exit status so that no zombie stays."""
    processes.wait_until(lambda: not processes.alive(keeper), DOWN_SECONDS)
    try:
        os.waitpid(keeper.pid, os.WNOHANG)
    except ChildProcessError:
        return


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that is up.

    Args:
        folder: its folder. ports: its ports. environment: what to put into a process so that AWS SDKs find it.
    """

    folder: SandboxFolder
    ports: Ports
    environment: dict[str, str]
    bucket: str = BUCKET


@contextmanager
def running(folder: Path | None = None, buildspecs: str = "") -> Iterator[RunningSandbox]:
    """A sandbox for the length of a ``with``, down again afterwards. Without a folder, in a short temporary one.

    It ends with this process, however that ends. For tests: ``with running() as sandbox: ...``, with
    ``sandbox.environment`` in the environment of whatever shall find it.
    """
    with tempfile.TemporaryDirectory(prefix="hyb", ignore_cleanup_errors=True) as temporary:
        chosen = SandboxFolder(folder or Path(temporary) / "s")
        chosen.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        up(chosen, buildspecs, owner=os.getpid())
        recorded = chosen.read()
        assert recorded is not None
        try:
            yield RunningSandbox(chosen, recorded.ports, environment(recorded.ports))
        finally:
            down(chosen)
            if folder is None:
                for device in devices.registered(chosen):
                    devices.remove_sockets(chosen.device(device.name))
