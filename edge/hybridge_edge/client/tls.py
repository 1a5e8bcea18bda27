"""Mutual TLS towards a server on the network: the client's files, read again when they change."""

from __future__ import annotations

import os
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from hybridge_edge.client.targets import OPTIONS
from hybridge_edge.contract.errors import Refused, UsageError

LOOK_S = 5.0
"""Between two looks at the files."""
CONNECT_MS = 5000
"""How long a connection may take to be made. On a device's own sockets it is OPTIONS' 50 ms; a network and two
handshakes, or a server that has many of them, take longer."""
_CONNECT_WITHIN = "grpc.min_reconnect_backoff_ms"
MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files of a client.

    Attributes:
        ca: the authorities whose servers are trusted. certificate: the client's, its own first, then what leads to its
            authority. key: the certificate's, without a passphrase.
        server_name: the name that the server's certificate must have; "" for the host of the address.
    """

    ca: str | Path
    certificate: str | Path
    key: str | Path
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """What the files say now.

        Raises:
            Refused: one cannot be read, is no PEM, or the key is not the certificate's.
        """
        ca, certificate, key = (_content(Path(path)) for path in (self.ca, self.certificate, self.key))
        self._check()
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def options(self) -> tuple[tuple[str, int | str], ...]:
        """Of grpc's channel, all of them."""
        kept = tuple((name, value) for name, value in OPTIONS if name != _CONNECT_WITHIN)
        named = (("grpc.ssl_target_name_override", self.server_name),) if self.server_name else ()
        return (*kept, (_CONNECT_WITHIN, CONNECT_MS), *named)

    def stamp(self) -> tuple[object, ...]:
        """Different once a file has changed."""
        return tuple(_stamp(path) for path in (self.ca, self.certificate, self.key))

    def _check(self) -> None:
        """grpc would only say that it cannot connect."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_cert_chain(self.certificate, self.key, password=lambda: "")
            context.load_verify_locations(self.ca)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or "no PEM"
            raise Refused(
                f"The client's certificate, key and authorities cannot be used ({reason}).",
                "Each must be whole PEM, and the key that of the certificate.",
            ) from None


class Files:
    """The files of one client, as they were last used; safe to share between threads.

    Args:
        tls: None for a client without TLS, whose files never change.
    """

    def __init__(self, tls: ClientTls | None) -> None:
        self.tls = tls
        self._used: tuple[object, ...] = ()
        self._looked_at = 0.0

    def check_target(self, target: str) -> None:
        """Raises UsageError where a client with TLS is to go to a socket of its own device."""
        if self.tls is not None and (not target or target.startswith("unix:")):
            raise UsageError(
                "There is no TLS on the device's own sockets.", "Name the server as HOST:PORT, or leave tls out."
            )

    def changed(self, now: float | None = None) -> bool:
        """Whether they are others than those used, looked at every LOOK_S seconds."""
        if self.tls is None:
            return False
        now = time.monotonic() if now is None else now
        if now - self._looked_at < LOOK_S:
            return False
        self._looked_at = now
        return self.tls.stamp() != self._used

    def differ(self) -> bool:
        """The same, looked at now."""
        return self.tls is not None and self.tls.stamp() != self._used

    def use(self) -> grpc.ChannelCredentials | None:
        """Credentials of them, None without TLS. Raises Refused."""
        if self.tls is None:
            return None
        stamp = self.tls.stamp()
        credentials = self.tls.credentials()
        self._used, self._looked_at = stamp, time.monotonic()
        return credentials


class Uses:
    """The calls under way on a connection that another one may replace; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._retired = False

    def enter(self) -> bool:
        """Whether a call may begin here."""
        with self._lock:
            if self._retired:
                return False
            self._count += 1
            return True

    def leave(self) -> bool:
        """A call has ended; whether the connection is to be closed now."""
        with self._lock:
            self._count -= 1
            return self._retired and not self._count

    def retire(self) -> bool:
        """No call begins here from now on; whether the connection is to be closed now."""
        with self._lock:
            self._retired = True
            return not self._count


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}.", "Name the file that is meant.") from None
    if len(content) > MAX_FILE_BYTES:
        raise Refused(f"{path} is larger than {MAX_FILE_BYTES} bytes.", "Name the file that is meant.")
    return content


def _stamp(path: str | Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a link is followed, as in reading
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
