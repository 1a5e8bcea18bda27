"""Which ring a device belongs to: a pure function of its name and of who is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from hybridge_edge.contract import names

SHARES = (0.01, 0.10, 0.50, 1.0)
"""Ring i holds the devices whose place, from 0 to 1, is below SHARES[i] and not below that of the ring before."""


def ring_of(device: str, existing: Mapping[str, int], pinned: int | None = None) -> int:
    """The ring of a device, 0 to 3, for life.

    Args:
        existing: the ring of every device of the fleet. One that is there stays where it is; while ring 0 is empty, the
            next device goes there, since a rollout needs somebody to go first.
        pinned: the ring an operator chose for a new device.
    """
    if device in existing:
        return existing[device]
    if pinned is not None:
        names.ring_group("fleet", pinned)  # refuses a ring that does not exist
        return pinned
    if 0 not in existing.values():
        return 0
    place = int.from_bytes(hashlib.sha256(names.thing_name(device).encode()).digest()[:8], "big") / 2**64
    return next((ring for ring, share in enumerate(SHARES) if place < share), len(SHARES) - 1)
