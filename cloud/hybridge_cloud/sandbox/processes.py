"""Processes of a sandbox: who they are for certain, and how they end."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hybridge_cloud.sandbox.folder import HOST, Ports, Recorded, SandboxFolder, mark
from hybridge_edge.contract.errors import Refused, Unavailable
from hybridge_edge.contract.trust_document import TRUST_VARIABLE

POLL_SECONDS = 0.05
KILL_WAIT_SECONDS = 5.0
IPC_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_IPC_PREFIX = f"{IPC_VARIABLE}=".encode()
_FIRST_PORT = 10_000
_EPHEMERAL_PORTS = 32_768
"""Where the kernel's own range starts by default."""


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


def belonging(folder: SandboxFolder) -> list[Recorded]:
    """Every living process of a sandbox but this one, whoever its parent is now and whatever was written of it.

    Services, core devices and builds carry the sandbox's mark; a component, whose environment is a real core's, is
    known by lying under the sandbox's folder: its IPC socket does, or, where the folder's name is too long for
    sockets, its trust file. Ports do not tell: a sandbox that is down may have had the same.
    """
    marks = {f"{name}={value}".encode() for name, value in mark(folder).items()}
    under = tuple(f"{name}={folder.devices.resolve()}/".encode() for name in (IPC_VARIABLE, TRUST_VARIABLE))
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended, or is another user's
        component = any(value.startswith(_IPC_PREFIX) for value in variables)
        if not marks.isdisjoint(variables) or (component and any(value.startswith(under) for value in variables)):
            process = recorded(int(entry.name))
            if process is not None:
                found.append(process)
    return found


def free_ports() -> Ports:
    """Three loopback ports that nobody listens on now.

    They lie below the range from which the kernel serves outgoing connections (ip(7), ip_local_port_range), so that no
    connection sits on one of them while the sandbox is down or a service of it starts again.
    """
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        lowest = _EPHEMERAL_PORTS
    candidates = range(_FIRST_PORT, lowest) if lowest > 2 * _FIRST_PORT else range(_FIRST_PORT, _EPHEMERAL_PORTS)
    found: list[int] = []
    for port in random.sample(candidates, len(candidates)):
        if is_free(port):
            found.append(port)
        if len(found) == 3:
            return Ports(*found)
    raise Unavailable("There are no three free loopback ports.", "End some programs that listen.")


def is_free(port: int) -> bool:
    """Whether a service could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def check_ports(ports: Ports, folder: SandboxFolder) -> None:
    """Raise Refused where another program listens on one of the sandbox's kept ports."""
    for name, port in (("account", ports.account), ("control", ports.control), ("mqtt", ports.mqtt)):
        if not is_free(port):
            raise Refused(
                f"Port {port}, which this sandbox uses for {name}, is taken by another program.",
                f"End that program, or remove {folder.state_file} so that new ports are chosen.",
            )
