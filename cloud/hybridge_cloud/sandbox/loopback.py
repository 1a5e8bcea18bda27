"""Run the embedded account so that nothing of it listens beyond loopback.

Executed by path with the account environment's own Python, so standard library only. The account's MQTT listener asks
for 0.0.0.0 whatever it is told; here every bind of the process goes to loopback or is refused.
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


def main() -> None:
    socket.socket.bind = loopback_bind  # type: ignore[method-assign,assignment]
    from ministack.app import main as account  # type: ignore[import-not-found]

    account()


if __name__ == "__main__":
    main()
