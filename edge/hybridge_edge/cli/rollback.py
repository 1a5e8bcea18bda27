"""``hybridge-edge rollback``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("--reason", default="", help="why, for those who read the device's report")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Put the version before back; the one that ran may not run again before a new epoch. Returns the exit code."""
    reason = {"reason": arguments.reason} if arguments.reason else {}
    request = {"verb": "rollback", "model": arguments.model, **reason}
    reader, answer = talk.tell(canonical(request), talk.ACT_S)
    if not talk.shown(arguments, answer):
        print(f"{reader.text('model')} {reader.text('version')} is {reader.text('state')} again")
    return 0
