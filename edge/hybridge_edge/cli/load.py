"""``hybridge-edge load``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("--version", default="", help="only if this is the active version")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Bring a model back into memory. Returns the exit code."""
    request = {"verb": "load", "model": arguments.model, "version": arguments.version}
    reader, answer = talk.tell(canonical(request), talk.ACT_S)
    if not talk.shown(arguments, answer):
        was = "was in memory already" if reader.boolean("was_loaded") else "is in memory and answers"
        print(f"{reader.text('model')} {reader.text('version')} {was}")
    return 0
