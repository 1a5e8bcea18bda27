"""The front's process, as its supervisor sees it: the listening socket outlives it, and the worker behind it."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.errors import HybridgeError, Unavailable
from hybridge_edge.front import tls_settings
from hybridge_edge.front.tls_settings import TlsSettings
from hybridge_edge.loopback import parse_address, parse_tcp

_LOG = logging.getLogger(__name__)
BACKLOG = 64
AGAIN_S = 1.0
"""Between a death and the next start."""


class Front:
    """One front, kept alive. Imports no more than its supervisor may.

    Args:
        tcp: HOST:PORT, port 0 for any; on loopback where there is no TLS. server: the Unix socket behind it, in the
            runtime folder. alive: a descriptor that becomes readable when the supervisor is gone. tls: None for none.

    Raises:
        UsageError: ``tcp`` is not on loopback. Unavailable: the port is taken. SpoolFull, OSError: the settings of TLS
            cannot be written.
    """

    def __init__(self, tcp: str, server: Path, alive: int, tls: TlsSettings | None = None) -> None:
        self._tls = tls
        self._settings = server.parent / tls_settings.FILE
        if tls is not None:
            durable.write(self._settings, tls.to_json())
        self._listener = listen(tcp, anywhere=tls is not None)
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
        if self._tls is not None:
            command.append(str(self._settings))
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors)

    def follow(self, tls: TlsSettings | None) -> None:
        """Go by other settings of TLS from now on; whether there is TLS at all is decided at the start."""
        # A list that is gone is a deployment that turns TLS off, at the next start: nobody is cut off before.
        if self._tls is None or tls is None or not tls.clients or tls == self._tls:
            return
        try:
            durable.write(self._settings, tls.to_json())
        except (HybridgeError, OSError) as error:
            _LOG.error("The front does not hear of its settings: %s", error)
            return
        self._tls = tls

    def stop(self) -> None:
        """No new connections, and no old ones: the worker behind it has ended."""
        self._listener.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def listen(tcp: str, *, anywhere: bool = False) -> socket.socket:
    """Bind and listen, on loopback or ``anywhere``. Raises as ``Front``."""
    host, port = parse_address(tcp)[:2] if anywhere else parse_tcp(tcp)
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
