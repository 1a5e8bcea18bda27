"""``hybridge-edge support-bundle``."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from hybridge_edge import settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.zip", help="the file to write; must not exist")
    parser.add_argument("--logs", type=Path, help="the nucleus' folder of logs, where it is not found out")
    settings.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write what support needs of this device, redacted, into one file. Works where the server is down. Returns 0."""
    from hybridge_edge import support

    logging.getLogger("hybridge_edge").setLevel(logging.ERROR)  # what the parts say to a log stands in the bundle
    wanted = settings.read(arguments)
    is_named = any((arguments.store, arguments.settings, os.environ.get(settings.variable("store"))))
    parts = support.write(arguments.out, wanted, support.places(wanted, is_named, arguments.logs))
    print(f"{arguments.out}: {len(parts)} parts, {arguments.out.stat().st_size} bytes, redacted.")
    print("Look through it before you send it; its README.txt says what was taken out.")
    return 0
