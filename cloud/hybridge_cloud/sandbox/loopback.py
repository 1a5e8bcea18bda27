"""Run the embedded account so that nothing of it listens beyond loopback, and its broker heeds IoT policies.

Executed by path with the account environment's own Python, so standard library only. The account's MQTT listener asks
for 0.0.0.0 whatever it is told; here every bind of the process goes to loopback or is refused. Its broker evaluates
the policies of a client's certificate only where every HTTPS request's signature is checked as well, which needs users
and keys that a sandbox has no use for; here a client with a certificate is held to its policies always.
"""

from __future__ import annotations

import socket
from typing import Any

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - the addresses that are replaced
_bind = socket.socket.bind


def loopback_bind(self: socket.socket, address: Any) -> None:
    """bind(2), with a wildcard turned into loopback and any other address refused."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = str(address[0])
        if host in _EVERYWHERE:
            host = "::1" if self.family == socket.AF_INET6 else _EVERYWHERE[host]
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise PermissionError(f"the sandbox's account may listen on loopback only, not on {host}")
        address = (host, *address[1:])
    _bind(self, address)


def has_policies(session: Any) -> bool:
    """Whether a session of the broker is held to IoT policies: where it showed a certificate."""
    return session.certificate_id is not None


def main() -> None:
    socket.socket.bind = loopback_bind  # type: ignore[method-assign,assignment]
    from ministack.app import main as account  # type: ignore[import-not-found]
    from ministack.services import iot  # type: ignore[import-not-found]

    if not callable(getattr(iot._WSSession, "_evaluates_policies", None)):
        raise RuntimeError("this version of the account has no policies in its broker")
    iot._WSSession._evaluates_policies = has_policies
    account()


if __name__ == "__main__":
    main()
