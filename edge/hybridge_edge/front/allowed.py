"""Who of those that an authority vouches for may come: exact names, and a list of certificates that may not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybridge_edge.contract.errors import Refused

MAX_NAMES = 4096
MAX_NAME = 255
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")
_COMMENT = re.compile(r"(?m)(^|\s)#.*$")
_REVOKED = re.compile(r"(serial|sha256)[:\s]\s*([0-9A-Fa-f:]+)")

Name = tuple[str, str]
"""("DNS", in lower case, without a last dot) or ("URI", as it stands)."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What a certificate says of its holder.

    Attributes:
        names: DNS and URI names among its subject alternative names; the subject itself counts for nothing.
        serial: hexadecimal, without zeros in front. fingerprint: SHA-256 of the whole, hexadecimal.
        not_after: seconds since 1970.
    """

    names: frozenset[Name]
    serial: str
    fingerprint: str
    not_after: float

    def __str__(self) -> str:
        """For a log: what a stranger wrote, so short and without anything that is not printed."""
        names = ", ".join(value for _, value in sorted(self.names)) or "none"
        return "".join(letter if letter.isprintable() else "?" for letter in names)[:200]


@dataclass(frozen=True, slots=True)
class Allowed:
    """Both lists; entries of ``revoked`` are ("serial" or "sha256", hexadecimal)."""

    names: frozenset[Name]
    revoked: frozenset[tuple[str, str]] = frozenset()

    def refusal(self, peer: Peer, now: float = 0.0) -> str:
        """Why ``peer`` may not come: "revoked", "expired" at ``now``, "not-allowed", or "" where it may."""
        if ("serial", peer.serial) in self.revoked or ("sha256", peer.fingerprint) in self.revoked:
            return "revoked"
        if now > peer.not_after:
            return "expired"
        return "" if peer.names & self.names else "not-allowed"


def read_names(text: str, where: str) -> frozenset[Name]:
    """Names, one a line or between commas; ``#`` begins a comment. With a colon it is a URI, else a DNS name.

    Raises:
        Refused: an entry is neither, or has a wildcard: an entry is one name. There is none, or too many.
    """
    found = set()
    for entry in _entries(text):
        if ":" in entry and len(entry) <= MAX_NAME and "*" not in entry and _URI.fullmatch(entry):
            found.add(("URI", entry))
        elif len(entry) <= MAX_NAME and _DNS.fullmatch(entry):
            found.add(dns(entry))
        else:
            raise Refused(
                f"{where} has the entry {entry[:80]!r}, which is neither a DNS name nor a URI.",
                "Write whole names, such as press-7.plant.example or spiffe://plant/press-7; wildcards are not known.",
            )
    if not 1 <= len(found) <= MAX_NAMES:
        raise Refused(f"{where} has {len(found)} names; 1 to {MAX_NAMES} are allowed.", "Name who may come.")
    return frozenset(found)


def read_revoked(text: str, where: str) -> frozenset[tuple[str, str]]:
    """Certificates, one a line: ``serial HEX`` or ``sha256 HEX``, colons allowed; ``#`` begins a comment.

    Raises:
        Refused: an entry is neither, or there are too many.
    """
    found = set()
    for entry in _entries(text):
        match = _REVOKED.fullmatch(entry)
        digits = match[2].replace(":", "").lower() if match else ""
        if match is None or not digits or (match[1] == "sha256" and len(digits) != 64):
            raise Refused(
                f"{where} has the entry {entry[:80]!r}.",
                "Write serial HEX or sha256 HEX, as openssl x509 -noout -serial -fingerprint -sha256 shows them.",
            )
        found.add((match[1], number(digits) if match[1] == "serial" else digits))
    if len(found) > MAX_NAMES:
        raise Refused(f"{where} has {len(found)} entries; {MAX_NAMES} are allowed.", "Renew the client authority.")
    return frozenset(found)


def dns(name: str) -> Name:
    return "DNS", name.lower().removesuffix(".")


def number(digits: str) -> str:
    """A serial number in one way of writing it."""
    return digits.lower().lstrip("0") or "0"


def _entries(text: str) -> list[str]:
    bare = _COMMENT.sub("", text)
    return [entry for part in re.split(r"[,\n]", bare) if (entry := part.strip())]
