"""The ways a caller may ask. Each is a small class: made with an address, asked again and again, closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from hybridge_edge.client import Client, InferenceAnswer
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.engine import Array

CALL_S = 10.0
"""How long one request may take."""


class Transport(Protocol):
    """One caller's connection."""

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        """One request, whose sample the device may not keep. Raises HybridgeError."""
        ...

    def close(self) -> None: ...


class Unary:
    """A call a request."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)

    def ask(self, model: str, inputs: Mapping[str, Array]) -> InferenceAnswer:
        return self._client.infer(model, inputs, capture=False, timeout_s=CALL_S)

    def close(self) -> None:
        self._client.close()


TRANSPORTS: Mapping[str, Callable[[str], Transport]] = {"unary": Unary}


def checked(name: str) -> str:
    """Return ``name`` if this version has such a transport, else raise UsageError."""
    if name not in TRANSPORTS:
        raise UsageError(f"This version cannot ask by {name!r}.", f"Transports: {', '.join(TRANSPORTS)}.")
    return name


def connect(name: str, address: str) -> Transport:
    """A connection by the transport of that name. Raises UsageError where this version has none."""
    return TRANSPORTS[checked(name)](address)
