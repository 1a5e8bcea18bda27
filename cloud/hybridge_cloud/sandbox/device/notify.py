"""Where a ``startup`` step says that it is ready, as systemd has it (sd_notify(3)): a datagram with READY=1.

Nucleus lite runs ``startup`` as a unit that must notify. Below systemd 253 the line that it appends to the script
fails, so only a script that says ``systemd-notify --ready`` and leaves with ``exit 0`` before that line succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

VARIABLE = "NOTIFY_SOCKET"
LAST_LINE = """
echo "systemd-notify: unrecognized option '--stopping'" >&2
exit 1
"""
"""What systemd 252 makes of the end that nucleus lite gives every ``startup`` script."""


@dataclass(slots=True)
class Ready(asyncio.DatagramProtocol):
    """What was heard on one socket."""

    address: str
    said: bool = False

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.said = self.said or b"READY=1" in data.split(b"\n")


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Ready]:
    """Listen on an abstract socket of this machine; ``address`` is the variable's value."""
    name = f"hybridge-notify-{os.getpid()}-{secrets.token_hex(4)}"
    ready = Ready(f"@{name}")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: ready, local_addr=f"\0{name}", family=socket.AF_UNIX
    )
    try:
        yield ready
    finally:
        transport.close()
