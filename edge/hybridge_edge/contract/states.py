"""What a package can be on a device, and what a deployment can ask for."""

from __future__ import annotations

from enum import Enum


class PackageState(str, Enum):
    """The state of a package on one device. Source of the words: docs/architecture.md."""

    VERIFIED = "VERIFIED"
    STAGED = "STAGED"
    BUILDING = "BUILDING"
    ACTIVE = "ACTIVE"
    SHADOW = "SHADOW"
    REFUSED = "REFUSED"
    QUARANTINED = "QUARANTINED"
    RETIRED = "RETIRED"


class Mode(str, Enum):
    """What a hand-over asks of the server."""

    ACTIVATE = "activate"
    STAGE = "stage"
    RETIRE = "retire"
    SHADOW = "shadow"


HANDED_OVER = frozenset({PackageState.ACTIVE, PackageState.STAGED, PackageState.BUILDING, PackageState.SHADOW})
"""The states after which the model component exits 0 for a digest it never saw before."""
