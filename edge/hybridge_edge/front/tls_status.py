"""What mutual TLS on the network says of itself: one small file in the runtime folder, replaced whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

STATUS_FILE = "tls.json"
MAX_STATUS_BYTES = 64 * 1024
RESULTS = (
    "ok", "no-certificate", "untrusted", "expired", "not-yet-valid", "wrong-purpose", "not-allowed", "revoked", "no-h2",
    "refused-by-client", "protocol", "gone", "timed-out", "too-many", "not-ready",
)  # fmt: skip
"""How a handshake can end; docs/tls.md explains each."""
WARN_S = 30 * 24 * 3600.0
"""So long before its end a certificate is spoken of."""


@dataclass(frozen=True, slots=True)
class TlsStatus:
    """What the front does.

    Attributes:
        not_before, not_after: of the certificate that new connections are shown, seconds since 1970, 0 where there is
            none. names: its own. fingerprint: SHA-256, hexadecimal. clients: names that may come. revoked: entries of
            that list. problem: why the files, as they are now, are not used, "" where they are.
        rotations: how often other files were taken since the front started. connections: open now. cut: closed because
            they were not allowed any more. renewed: asked to come again (age, other authorities).
        handshakes: by result, one of RESULTS, since the front started.
    """

    not_before: int = 0
    not_after: int = 0
    names: tuple[str, ...] = ()
    fingerprint: str = ""
    clients: int = 0
    revoked: int = 0
    problem: str = ""
    rotations: int = 0
    connections: int = 0
    cut: int = 0
    renewed: int = 0
    handshakes: Mapping[str, int] = field(default_factory=dict)

    def state(self, now: float) -> str:
        """``ready``, ``expiring``, ``expired``, ``not-yet-valid``, or ``no-certificate``; ``now`` since 1970."""
        if not self.not_after:
            return "no-certificate"
        if now > self.not_after:
            return "expired"
        if now < self.not_before:
            return "not-yet-valid"
        return "expiring" if self.not_after - now < WARN_S else "ready"

    @classmethod
    def read(cls, folder: Path) -> TlsStatus | None:
        """The last status written to this runtime folder; None where TLS is off, or has not said anything yet."""
        try:
            reader = parse((folder / STATUS_FILE).read_bytes(), "status of TLS", MAX_STATUS_BYTES)
            status = cls(
                not_before=reader.integer("not_before", minimum=-(2**62)),
                not_after=reader.integer("not_after", minimum=-(2**62)),
                names=reader.strings("names"),
                fingerprint=reader.text("fingerprint"),
                clients=reader.integer("clients"),
                revoked=reader.integer("revoked"),
                problem=reader.text("problem"),
                rotations=reader.integer("rotations"),
                connections=reader.integer("connections"),
                cut=reader.integer("cut"),
                renewed=reader.integer("renewed"),
                handshakes={name: int(count) for name, count in reader.numbers_by_name("handshakes").items()},
            )
            reader.close()
        except (OSError, InvalidDocument):
            return None
        return status

    def write(self, folder: Path) -> None:
        """Replace the status in this runtime folder. Raises OSError.

        Not through ``durable``: it is worth nothing after a power cut, and the front, which carries everybody's bytes,
        shall not wait for a disk.
        """
        beside = folder / f".{STATUS_FILE}.new"
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(canonical({**asdict(self), "handshakes": dict(self.handshakes)}))
        beside.replace(folder / STATUS_FILE)
