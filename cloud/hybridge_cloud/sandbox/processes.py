"""Processes of a sandbox: who they are for certain, and how they end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hybridge_cloud.sandbox.folder import HOST, Ports, Recorded, SandboxFolder
from hybridge_edge.contract.errors import Refused

POLL_SECONDS = 0.05
KILL_WAIT_SECONDS = 5.0
_IPC_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"


def recorded(pid: int) -> Recorded | None:
    """The identity of a running process, or None where it has ended (a zombie has ended)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return None if fields[0] in "ZX" else Recorded(pid, int(fields[19]))


def alive(process: Recorded) -> bool:
    return recorded(process.pid) == process


def send(process: Recorded, number: signal.Signals) -> None:
    """Signal a process, and only that very process."""
    if alive(process):
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` became true within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def stop(processes: Iterable[Recorded], grace_seconds: float) -> None:
    """End processes: SIGTERM to all, then SIGKILL to what is left after the grace."""
    chosen = list(processes)
    for process in chosen:
        send(process, signal.SIGTERM)
    if wait_until(lambda: not any(alive(process) for process in chosen), grace_seconds):
        return
    for process in chosen:
        send(process, signal.SIGKILL)
    wait_until(lambda: not any(alive(process) for process in chosen), KILL_WAIT_SECONDS)


def component_processes(folder: SandboxFolder, ports: Ports) -> list[Recorded]:
    """Greengrass component processes of this sandbox's devices that are still there, whoever their parent is now.

    A component is known by the IPC socket in its environment, and as ours by the account's endpoint, whose port no
    other sandbox has, or by lying under the sandbox's folder.
    """
    endpoint = f"AWS_ENDPOINT_URL=http://{HOST}:{ports.account}".encode()
    under = str(folder.devices).encode() + b"/"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        ipc = [value for value in variables if value.startswith(_IPC_VARIABLE.encode() + b"=")]
        if not ipc or not (endpoint in variables or under in ipc[0]):
            continue
        process = recorded(int(entry.name))
        if process is not None and process.pid != os.getpid():
            found.append(process)
    return found


def free_ports() -> Ports:
    """Three loopback ports that nobody listens on now."""
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(3)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        account, control, mqtt = (int(one.getsockname()[1]) for one in sockets)
    finally:
        for one in sockets:
            one.close()
    return Ports(account, control, mqtt)


def check_ports(ports: Ports, folder: SandboxFolder) -> None:
    """Raise Refused where another program listens on one of the sandbox's kept ports."""
    for name, port in (("account", ports.account), ("control", ports.control), ("mqtt", ports.mqtt)):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                probe.listen(1)
            except OSError:
                raise Refused(
                    f"Port {port}, which this sandbox uses for {name}, is taken by another program.",
                    f"End that program, or remove {folder.state_file} so that new ports are chosen.",
                ) from None
