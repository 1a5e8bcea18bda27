"""The front's process, as its supervisor sees it: the listening socket outlives it, and the worker behind it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.loopback import parse_tcp

_LOG = logging.getLogger(__name__)
BACKLOG = 64
AGAIN_S = 1.0
"""Between a death and the next start."""


class Front:
    """One front, kept alive. Imports no more than its supervisor may.

    Args:
        tcp: HOST:PORT on loopback, port 0 for any. server: the Unix socket behind it. alive: a descriptor that becomes
            readable when the supervisor is gone.

    Raises:
        UsageError: ``tcp`` is not on loopback. Unavailable: the port is taken.
    """

    def __init__(self, tcp: str, server: Path, alive: int) -> None:
        self._listener = listen(tcp)
        host, port = self._listener.getsockname()[:2]
        self.tcp = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._server = server
        self._alive = alive
        self._process: subprocess.Popen[bytes] | None = None
        self._died_at = 0.0

    def keep(self) -> None:
        """Start it where it does not run; called now and then."""
        process = self._process
        if process is not None:
            code = process.poll()
            if code is None:
                return
            _LOG.error("The front ended with %d; it starts again.", code)
            self._process, self._died_at = None, time.monotonic()
        if self._died_at and time.monotonic() - self._died_at < AGAIN_S:
            return
        descriptors = (self._listener.fileno(), self._alive)
        command = [sys.executable, "-m", "hybridge_edge.front", *map(str, descriptors), str(self._server)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)

    def stop(self) -> None:
        """No new connections, and no old ones: the worker behind it has ended."""
        self._listener.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def listen(tcp: str) -> socket.socket:
    """Bind and listen. Raises as ``Front``."""
    host, port = parse_tcp(tcp)
    plain = host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in plain else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # A server that has just ended leaves its port in TIME_WAIT, which is no other program's.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((plain, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"The server cannot listen on {tcp}: {error.strerror}.", "Another program uses the port: choose another."
        ) from None
    return listener
