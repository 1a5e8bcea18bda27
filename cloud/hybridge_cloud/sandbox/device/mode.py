"""Which nucleus a core device follows, and the limits that come with it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024


class Mode(enum.StrEnum):
    CLASSIC = "classic"
    LITE = "lite"


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of a core device; times in seconds, sizes in bytes.

    The defaults of each mode are the nucleus' own where its behaviour is known; tests shorten the waits.
    """

    version: str
    """What GGC_VERSION says."""
    runtime: str
    """The platform attribute ``runtime``."""
    socket_name: str
    running_after: float
    """How long a `run` step lives before it counts as RUNNING: classic 0, lite 5."""
    running_within: float
    """How long a deployment waits for components to be RUNNING or FINISHED once they are installed."""
    stop_within: float
    """From SIGTERM to SIGKILL."""
    message_bytes: int
    """A longer IPC message closes the connection."""
    recipe_bytes: int
    strikes: int = 3
    """Failures within the window that make a component BROKEN, and tries of an `install` step."""
    strike_window: float = 3600.0
    restart_after: float = 1.0
    install_within: float = 120.0
    """The default Timeout of `install` and `startup`."""
    shutdown_within: float = 15.0
    """The default Timeout of `shutdown`, classic only."""
    artifact_bytes: int = 2048 * MEBIBYTE
    """All artifacts of one component, and all that one archive holds."""
    archive_entries: int = 20_000
    log_bytes: int = 4 * MEBIBYTE
    """Of one log file; one older file is kept beside it."""
    poll_seconds: int = 20
    """How long one question for the next job may wait."""
    status_after: float = 0.3
    """Changes of state within this time are reported together."""
    retry_longest: float = 10.0
    connections: int = 64
    streams: int = 256
    """Open streams of one IPC connection."""
    defer_within: float = 60.0
    """How long a component may take to say whether an update must wait, where the deployment does not say; classic."""
    validate_within: float = 30.0
    """How long a component may take to judge a configuration, where the deployment does not say; classic."""
    execute_cut: bool = False
    """Run a script that nucleus lite would cut as lite does, cut, instead of refusing it."""


_LIMITS = {
    Mode.CLASSIC: Limits(
        version="2.18.0",
        runtime="aws_nucleus_classic",
        socket_name="ipc.socket",
        running_after=0.0,
        running_within=600.0,
        stop_within=15.0,
        message_bytes=MEBIBYTE,
        recipe_bytes=MEBIBYTE,
    ),
    Mode.LITE: Limits(
        version="2.6.0",
        runtime="aws_nucleus_lite",
        socket_name="gg-ipc.socket",
        running_after=5.0,
        running_within=300.0,
        stop_within=120.0,
        message_bytes=10_000,
        recipe_bytes=8_196,
    ),
}


def limits_of(mode: Mode) -> Limits:
    return _LIMITS[mode]
