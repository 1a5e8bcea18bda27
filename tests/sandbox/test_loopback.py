"""Nothing of a sandbox can be reached from another machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import hybridge_cloud.sandbox.loopback as loopback
from hybridge_cloud.sandbox import account, lifecycle
from hybridge_cloud.sandbox.lifecycle import RunningSandbox

LISTEN = "0A"


def descendants(pids: Iterable[int]) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: Iterable[int]) -> list[tuple[str, int]]:
    """(address, port) of every listening TCP socket of some processes, out of /proc/net/tcp and tcp6."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue  # closed since it was listed, as the listing's own descriptor is
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table, family in (("/proc/net/tcp", socket.AF_INET), ("/proc/net/tcp6", socket.AF_INET6)):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != LISTEN or fields[9] not in inodes:
                continue
            address, port = fields[1].split(":")
            words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
            found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def test_every_listening_socket_of_the_sandbox_is_on_loopback(sandbox: RunningSandbox) -> None:
    running = lifecycle.status(sandbox.folder).processes
    assert set(running) == {"keeper", "account", "control"}
    found = listening(descendants(process.pid for process in running.values()))
    assert {address for address, _ in found} == {"127.0.0.1"}
    assert {port for _, port in found} == {sandbox.ports.account, sandbox.ports.control, sandbox.ports.mqtt}


def test_a_listener_on_every_address_would_be_found() -> None:
    with socket.socket() as open_to_all, socket.socket(socket.AF_INET6) as open_to_all_6:
        for one, host in ((open_to_all, "0.0.0.0"), (open_to_all_6, "::")):
            one.bind((host, 0))
            one.listen()
        found = {address for address, _ in listening([os.getpid()])}
    assert {"0.0.0.0", "::"} <= found


def test_the_wrapper_turns_a_wildcard_into_loopback_and_refuses_other_addresses() -> None:
    program = f"""
import asyncio, runpy, socket
wrapper = runpy.run_path({str(Path(loopback.__file__))!r})
socket.socket.bind = wrapper["loopback_bind"]
async def main():
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host="0.0.0.0", port=0)
    print(server.sockets[0].getsockname()[0])
    for host in ("", "::", "192.0.2.1"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
            try:
                one.bind((host, 0))
                print(one.getsockname()[0])
            except PermissionError:
                print("refused")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["127.0.0.1", "127.0.0.1", "::1", "refused"]
    assert account.python().exists()
