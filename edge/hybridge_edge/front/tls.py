"""One connection's TLS, over bytes that somebody else reads and writes. Two buffers in memory, no socket."""

from __future__ import annotations

import ssl

from hybridge_edge.front.allowed import Peer
from hybridge_edge.front.certificates import PROTOCOL, Credentials, peer_of

RECORD_HEADER = 5
PIECE_BYTES = 64 * 1024
_VERIFICATION = {10: "expired", 9: "not-yet-valid", 26: "wrong-purpose"}
"""X509_V_ERR_* (OpenSSL, X509_STORE_CTX_get_error(3))."""
_ALERTS = ("ALERT_", "_ALERT")


class Session:
    """The server's end."""

    __slots__ = ("_in", "_left", "_out", "_part", "_tls", "credentials", "ended")

    def __init__(self, credentials: Credentials) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = credentials.context.wrap_bio(self._in, self._out, server_side=True)
        self._left, self._part = 0, b""
        self.credentials = credentials
        self.ended = False
        """Whether the client has said its last word."""

    def shake(self, raw: bytes) -> bool:
        """Take what the client sent; whether the handshake is done. Raises ssl.SSLError where it has failed."""
        self._in.write(raw)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def peer(self) -> Peer:
        """Who it is, once the handshake is done. Raises ValueError where the certificate cannot be read."""
        return peer_of(self._tls)

    @property
    def speaks(self) -> bool:
        """Whether both sides agreed on HTTP/2."""
        return self._tls.selected_alpn_protocol() == PROTOCOL

    def open(self, raw: bytes) -> bytes:
        """The plain bytes in what the client sent. Raises ValueError where that is no TLS any more."""
        self._in.write(raw)
        pieces = []
        try:
            while self._in.pending or self._tls.pending():
                piece = self._tls.read(PIECE_BYTES)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as error:
            raise ValueError(f"no TLS: {error.reason}") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seal(self, data: bytes) -> bytes:
        """What to send for plain bytes. Raises ValueError where TLS has ended."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._tls.write(view) :]
        except ssl.SSLError as error:
            raise ValueError(f"TLS has ended: {error.reason}") from None
        return self._out.read()

    def outgoing(self) -> bytes:
        """What TLS itself has to say."""
        return self._out.read() if self._out.pending else b""

    def close(self) -> bytes:
        """The last word; nothing may be sealed after it."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):  # it waits for the client's, which we do not
            pass
        return self.outgoing()

    def records(self, raw: bytes) -> int:
        """How many records begin in what the client sent: what they cost, whatever is in them."""
        found, at, end = 0, 0, len(raw)
        while at < end:
            if self._left:
                step = min(self._left, end - at)
                self._left -= step
                at += step
                continue
            head = self._part + raw[at : at + RECORD_HEADER - len(self._part)]
            at += len(head) - len(self._part)
            if len(head) < RECORD_HEADER:
                self._part = head
                break
            self._part, self._left = b"", int.from_bytes(head[3:5], "big")
            found += 1
        return found


def result_of(error: ssl.SSLError) -> str:
    """Why a handshake failed, as tls_status.RESULTS has it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFICATION.get(error.verify_code, "untrusted")
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no-certificate"
    if any(part in reason for part in _ALERTS):
        return "refused-by-client"
    return "protocol"
