"""``hybridge-edge unload``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take a model out of memory. Returns the exit code."""
    reader, answer = talk.tell(canonical({"verb": "unload", "model": arguments.model}), talk.ASK_S)
    if not talk.shown(arguments, answer):
        model, version = reader.text("model"), reader.text("version")
        print(f"{model} {version} is out of memory until hybridge-edge load {model}, a start or a hand-over")
    return 0
