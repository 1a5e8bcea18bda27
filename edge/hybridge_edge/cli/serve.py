"""``hybridge-edge serve``."""

from __future__ import annotations

import argparse

from hybridge_edge import settings
from hybridge_edge.observe import logs
from hybridge_edge.supervisor import Supervisor, blocked_signals

add_arguments = settings.add_arguments


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM. Returns the exit code."""
    with blocked_signals():  # first of all: reading the deployment starts the SDK's threads
        wanted = settings.read(arguments)
        logs.configure(wanted.log_format)
        return Supervisor(wanted).run()
