"""Certificate, key, authorities and lists, read together and believed only once a handshake with them has worked."""

from __future__ import annotations

import hashlib
import os
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hybridge_edge.contract.errors import Refused
from hybridge_edge.front.allowed import Allowed, Peer, dns, number, read_names, read_revoked
from hybridge_edge.front.tls_settings import TlsSettings

MAX_FILE_BYTES = 1024 * 1024
PROTOCOL = "h2"
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption. Those of TLS 1.3 are all so."""
_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME (OpenSSL, X509_VERIFY_PARAM_set_flags(3)), which ssl has no name for."""
_TURNS = 4
"""Of a handshake in memory, more than it needs."""
_OTHERS_OF_KEY, _OTHERS = 0o027, 0o022


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one state of the files gives.

    Attributes:
        context: for new connections. own: the server's certificate. not_before: of it, seconds since 1970.
        authorities: a digest of the client authorities. settings: what they were read by.
    """

    context: ssl.SSLContext
    allowed: Allowed
    own: Peer
    not_before: float
    authorities: str
    settings: TlsSettings

    def valid_at(self, now: float) -> bool:
        return self.not_before <= now <= self.own.not_after


def read(settings: TlsSettings) -> dict[str, bytes]:
    """The content of every file, by its setting.

    Raises:
        Refused: one cannot be read, is too large, or others may read (the key) or write it.
    """
    found = {
        "tlsCertificate": _content("tlsCertificate", settings.certificate, _OTHERS),
        "tlsKey": _content("tlsKey", settings.key, _OTHERS_OF_KEY),
        "tlsClientCa": _content("tlsClientCa", settings.client_ca, _OTHERS),
        "tlsClients": settings.clients.encode(),
        "tlsRevoked": b"",
    }
    if settings.clients.startswith("/"):
        found["tlsClients"] = _content("tlsClients", settings.clients, _OTHERS)
    if settings.revoked:
        found["tlsRevoked"] = _content("tlsRevoked", settings.revoked, _OTHERS)
    return found


def paths(settings: TlsSettings) -> tuple[str, ...]:
    """Every file that the settings name."""
    listed = (settings.clients,) if settings.clients.startswith("/") else ()
    return settings.certificate, settings.key, settings.client_ca, *listed, *filter(None, (settings.revoked,))


def make(contents: Mapping[str, bytes], settings: TlsSettings) -> Credentials:
    """Credentials from what ``read`` gave.

    Raises:
        Refused: a file is no PEM or half of one, the key is another certificate's, the certificate is not for servers.
    """
    allowed = Allowed(
        read_names(_text(contents, "tlsClients"), "tlsClients"),
        read_revoked(_text(contents, "tlsRevoked"), "tlsRevoked"),
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols([PROTOCOL])
    # No tickets. What TLS 1.2 remembers of its own accord is this context's, gone with the next state of the files.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    with _file(contents["tlsCertificate"]) as certificate, _file(contents["tlsKey"]) as key:
        try:
            # A passphrase would be asked for on the terminal; there is none to be had.
            context.load_cert_chain(certificate, key, password=lambda: "")
        except ssl.SSLError as error:
            reason = error.reason or "no PEM"
            if reason == "KEY_VALUES_MISMATCH":
                raise Refused(
                    "The key in tlsKey is not that of the certificate in tlsCertificate.",
                    "One of them may not have been replaced yet; put both in place.",
                ) from None
            raise Refused(
                f"tlsCertificate and tlsKey cannot be used ({reason}).",
                "Each must be whole PEM; the key without a passphrase.",
            ) from None
        own, not_before = _shown(context, certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    with _file(contents["tlsClientCa"]) as authorities:
        try:
            context.load_verify_locations(cafile=authorities)
        except ssl.SSLError as error:
            raise Refused(
                f"tlsClientCa cannot be used ({error.reason or 'no PEM'}).", "It must be whole PEM."
            ) from None
    if context.cert_store_stats()["x509_ca"] == 0:
        raise Refused("tlsClientCa holds no certificate of an authority.", "Name the one that signs the clients.")
    digest = hashlib.sha256(contents["tlsClientCa"]).hexdigest()
    return Credentials(context, allowed, own, not_before, digest, settings)


def peer_of(shown: ssl.SSLObject) -> Peer:
    """The other side of a handshake. Raises ValueError where it has shown no certificate, or one that is no text."""
    said, whole = shown.getpeercert(), shown.getpeercert(binary_form=True)
    if not said or whole is None:
        raise ValueError("no certificate was shown")
    return _peer(dict(said), whole)


def _peer(said: dict[str, Any], whole: bytes) -> Peer:
    names = set()
    for kind, value in said.get("subjectAltName", ()):
        if kind == "DNS":
            names.add(dns(value))
        elif kind == "URI":
            names.add(("URI", value))
    not_after = float(ssl.cert_time_to_seconds(said["notAfter"]))
    return Peer(frozenset(names), number(said["serialNumber"]), hashlib.sha256(whole).hexdigest(), not_after)


def _shown(context: ssl.SSLContext, certificate: str) -> tuple[Peer, float]:
    """What a client is shown, found out by a handshake in memory, whatever the date is.

    Raises:
        Refused: no client could finish it.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(cafile=certificate)
        ours = context.wrap_bio(there, back, server_side=True)
        theirs = client.wrap_bio(back, there, server_side=False)
        for _ in range(_TURNS):
            for side in (theirs, ours):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason
        raise Refused(
            f"No client could use the certificate in tlsCertificate ({reason}).",
            "It must be a certificate for servers, with a key that TLS 1.2 or later knows.",
        ) from None
    try:
        said = theirs.getpeercert() or {}
        return peer_of(theirs), float(ssl.cert_time_to_seconds(str(said.get("notBefore"))))
    except ValueError as error:
        raise Refused(
            f"The certificate in tlsCertificate cannot be read: {error}.", "Have it made with names that are text."
        ) from None


@contextmanager
def _file(content: bytes) -> Iterator[str]:
    """A path to these very bytes: OpenSSL would read the file again, which may be another one by then."""
    descriptor = os.memfd_create("tls")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _content(name: str, path: str, forbidden: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{name} {path} cannot be read: {error.strerror}.", "Put the file in place.") from None
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{name} {path} is no file.", "Name a file.")
        if found.st_uid not in (0, os.getuid()):
            raise Refused(
                f"{name} {path} belongs to user {found.st_uid}, neither root nor the server's own.",
                "Give it to one of them.",
            )
        if found.st_mode & forbidden:
            verb = "read or write" if forbidden == _OTHERS_OF_KEY else "write"
            mend = "chmod o-rwx,g-w" if forbidden == _OTHERS_OF_KEY else "chmod go-w"
            raise Refused(
                f"{name} {path} has mode {stat.S_IMODE(found.st_mode):04o}: others may {verb} it.", f"Run {mend} on it."
            )
        try:
            content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise Refused(f"{name} {path} cannot be read: {error.strerror}.", "Put the file in place.") from None
    if len(content) > MAX_FILE_BYTES:
        raise Refused(f"{name} {path} is larger than {MAX_FILE_BYTES} bytes.", "Name the right file.")
    return content


def _text(contents: Mapping[str, bytes], name: str) -> str:
    try:
        return contents[name].decode()
    except UnicodeDecodeError:
        raise Refused(f"{name} is no UTF-8 text.", "Write names as text, one a line.") from None


def expiry(credentials: Credentials, now: float | None = None) -> float:
    """Seconds until the server's certificate expires; negative once it has."""
    return credentials.own.not_after - (time.time() if now is None else now)
