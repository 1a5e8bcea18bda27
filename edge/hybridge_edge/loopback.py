"""Where a server of ours may listen: without TLS on this machine, with it elsewhere too."""

from __future__ import annotations

import ipaddress

from hybridge_edge.contract.errors import UsageError


def parse_address(text: str) -> tuple[str, int, bool]:
    """HOST:PORT, and whether HOST is this machine itself. Raises UsageError; HOST is an address, or localhost."""
    host, _, port = text.rpartition(":")
    try:
        number = int(port)
        loopback = host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        raise UsageError(f"{text!r} is not HOST:PORT.", "Write 127.0.0.1:8001, or leave it empty.") from None
    if not 0 <= number <= 65535:
        raise UsageError(f"{text!r} names no port.", "Write a port from 0 to 65535.")
    return host, number, loopback


def parse_tcp(text: str) -> tuple[str, int]:
    """HOST:PORT on loopback, or UsageError."""
    host, number, loopback = parse_address(text)
    if not loopback:
        raise UsageError(
            f"The server does not listen on {text!r}: without TLS it stays on this machine.",
            "Write 127.0.0.1:PORT, or leave it empty.",
        )
    return host, number
