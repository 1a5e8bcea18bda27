"""What mutual TLS is told: files, who may come, and for how long. Needs no OpenSSL: the supervisor reads it too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Protocol

from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.loopback import parse_address

FILE = "front.json"
"""In the runtime folder: these settings, for the front, which reads them again when they change."""
LOOK_S = 2.0
"""How often the front looks whether a file has changed."""
HANDSHAKE_S = 5.0
"""From a connection to the last word of its handshake, however it trickles."""
DEFAULT_CONNECTION_S = 3600.0
MIN_CONNECTION_S = 10.0
MAX_CONNECTION_S = 7 * 24 * 3600.0
MAX_CLIENTS_TEXT = 4000
"""Characters of a list in the settings; a longer one is a file."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Paths and limits.

    Attributes:
        certificate: PEM, the server's own first, then what leads to its authority. key: PEM, without a passphrase.
        client_ca: PEM, every authority whose clients may come. clients: names, or the absolute path of a list of them
            (see allowed.read_names). revoked: path of a list of certificates that may not, "" for none.
        connection_s: how long a connection may live. look_s: between two looks at the files.
        handshake_s: how long a handshake may take. Nobody is asked for the last two: tests are in a hurry.
    """

    certificate: str
    key: str
    client_ca: str
    clients: str
    revoked: str = ""
    connection_s: float = DEFAULT_CONNECTION_S
    look_s: float = LOOK_S
    handshake_s: float = HANDSHAKE_S

    def to_json(self) -> bytes:
        return canonical(asdict(self))

    @classmethod
    def from_json(cls, data: bytes | str) -> TlsSettings:
        """What the supervisor wrote. Raises InvalidDocument."""
        reader = parse(data, "front's settings")
        settings = cls(
            certificate=reader.text("certificate"),
            key=reader.text("key"),
            client_ca=reader.text("client_ca"),
            clients=reader.text("clients"),
            revoked=reader.text("revoked"),
            connection_s=reader.number("connection_s"),
            look_s=reader.number("look_s"),
            handshake_s=reader.number("handshake_s"),
        )
        reader.close()
        return settings


class Given(Protocol):
    """The same settings, as a server is given them; each "" where it is not set."""

    @property
    def tls_certificate(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def tls_client_ca(self) -> str: ...
    @property
    def tls_clients(self) -> str: ...
    @property
    def tls_revoked(self) -> str: ...


def check(tcp: str, settings: Given) -> None:
    """Refuse half of TLS anywhere, and none of it beyond this machine. Raises UsageError, naming what is missing."""
    needed = {
        "tlsCertificate": settings.tls_certificate,
        "tlsKey": settings.tls_key,
        "tlsClientCa": settings.tls_client_ca,
        "tlsClients": settings.tls_clients,
    }
    missing = [name for name, value in needed.items() if not value]
    loopback = not tcp or parse_address(tcp)[2]
    if len(settings.tls_clients) > MAX_CLIENTS_TEXT:
        raise UsageError(
            f"tlsClients is longer than {MAX_CLIENTS_TEXT} characters.",
            "Write one name a line into a file, and name that with its absolute path.",
        )
    if not missing or (loopback and len(missing) == len(needed) and not settings.tls_revoked):
        return
    if loopback:
        raise UsageError(
            f"TLS is set by half: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing.",
            "Set all of certificate, key, client CA and clients, or none of them. See docs/tls.md.",
        )
    raise UsageError(
        f"The server does not listen on {tcp!r} without TLS: {', '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing.",
        "Set them (docs/tls.md), or write 127.0.0.1:PORT to stay on this machine.",
    )
