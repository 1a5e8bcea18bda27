"""The trust file: whose signatures a device accepts on packages. Format 1.

    {"format": 1, "threshold": 1, "keys": {KEYID: KEY, ...}}
    KEY = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": HEX}}

Key ids and key objects are securesystemslib's (``Key.keyid``, ``Key.to_dict()``). Enrolment writes the file, owned by
root on a real device; no component's configuration can name another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

FORMAT = 1
MAX_TRUST_BYTES = 64 * 1024
MAX_KEYS = 32
DEFAULT_TRUST_FILE = "/etc/hybridge/trust.json"
TRUST_VARIABLE = "HYBRIDGE_TRUST"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One public key: its id, its kind and scheme as securesystemslib names them, and its public value."""

    keyid: str
    keytype: str
    scheme: str
    public: str

    def to_json(self) -> dict[str, object]:
        """The key object, as ``securesystemslib.signer.Key.to_dict()`` gives it."""
        return {"keytype": self.keytype, "scheme": self.scheme, "keyval": {"public": self.public}}


@dataclass(frozen=True, slots=True)
class TrustDocument:
    """Keys, and how many different ones of them must have signed."""

    threshold: int
    keys: tuple[TrustedKey, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_KEYS or not 1 <= self.threshold <= len(self.keys):
            raise InvalidDocument(
                f"The trust file asks for {self.threshold} of {len(self.keys)} keys.",
                f"Name 1 to {MAX_KEYS} keys and a threshold of at least 1 and at most their number.",
            )
        if len({key.keyid for key in self.keys}) != len(self.keys) or len({k.public for k in self.keys}) != len(
            self.keys
        ):
            raise InvalidDocument("The trust file names one key twice.", "Name each key once.")

    def to_bytes(self) -> bytes:
        return canonical(
            {"format": FORMAT, "threshold": self.threshold, "keys": {key.keyid: key.to_json() for key in self.keys}}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> TrustDocument:
        """Read a trust file. Raises InvalidDocument with the field and the reason."""
        reader = parse(data, "trust file", MAX_TRUST_BYTES)
        reader.format(FORMAT)
        threshold = reader.integer("threshold", minimum=1)
        keys = reader.object("keys", _keys)
        reader.close()
        return cls(threshold, keys)


def _keys(reader: Reader) -> tuple[TrustedKey, ...]:
    return tuple(reader.object(keyid, partial(_key, keyid)) for keyid in reader.names())


def _key(keyid: str, reader: Reader) -> TrustedKey:
    return TrustedKey(
        keyid,
        reader.text("keytype"),
        reader.text("scheme"),
        reader.object("keyval", lambda value: value.text("public")),
    )
