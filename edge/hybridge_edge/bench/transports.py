"""The ways a caller may ask, each our client kept to one of its own ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hybridge_edge.client import Client, ClientTls, InferenceAnswer
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.engine import Array

CALL_S = 10.0
"""How long one request may take."""
TRANSPORTS: Mapping[str, Mapping[str, int]] = {
    "unary": {"direct": 0, "streams": 0},
    "stream": {"direct": 0, "streams": 1},
    "direct": {"direct": 1, "streams": 0},
}
"""A call a request; one stream for all; the direct socket, on the same device."""


class Transport(Protocol):
    """One caller's connection."""

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        """One request, whose sample the device may not keep. Raises HybridgeError."""
        ...

    def close(self) -> None: ...


class _Client:
    def __init__(self, address: str, ways: Mapping[str, int], tls: ClientTls | None) -> None:
        self._client = Client(address, tls=tls, retry=False, direct=ways["direct"], streams=ways["streams"])

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        return self._client.infer(model, inputs, capture=False, timeout_s=CALL_S)

    def close(self) -> None:
        self._client.close()


def checked(name: str) -> str:
    """Return ``name`` if this version has such a transport, else raise UsageError."""
    if name not in TRANSPORTS:
        raise UsageError(f"This version cannot ask by {name!r}.", f"Transports: {', '.join(TRANSPORTS)}.")
    return name


def connect(name: str, address: str, tls: ClientTls | None = None) -> Transport:
    """A connection by the transport of that name. Raises UsageError where this version has none."""
    return _Client(address, TRANSPORTS[checked(name)], tls)
