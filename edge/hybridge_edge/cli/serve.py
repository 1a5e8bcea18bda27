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
        source = settings.Source.of(arguments)
        wanted = source.read()
        logs.configure(wanted.log_format, wanted.log_level)
        return Supervisor(wanted, source).run()
