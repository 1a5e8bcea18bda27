"""Speaks to the management socket of this device's server, and turns its refusals into ours."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from hybridge_edge import lines, runtime
from hybridge_edge.contract.document import Reader, canonical
from hybridge_edge.contract.errors import Unavailable

ACT_S = 75.0
"""How long a verb that loads a model may take; longer than the server lets it (activation.ANSWER_WITHIN_S)."""
ASK_S = 15.0
"""The same of the others; longer than a label may wait for the disk."""
_LOOK_AGAIN_S = 0.1


def wait_for_server(seconds: float) -> None:
    """Wait until this device's server answers. Raises Unavailable after ``seconds``, with the last reason."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            tell(canonical({"verb": "list"}), max(seconds, 1.0))
            return
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_LOOK_AGAIN_S)


def tell(line: bytes, timeout_s: float) -> tuple[Reader, bytes]:
    """Send a line; returns the answer, as a reader past its ``ok``, and as it came.

    Raises:
        Unavailable: no server, or no answer within ``timeout_s`` seconds. Refused: the server said no, with its words.
    """
    answer = lines.ask(Path(runtime.Endpoint.read(runtime.folder()).management), line, timeout_s)
    return lines.read_answer(answer), answer


def add_json(parser: argparse.ArgumentParser) -> None:
    """The flag that every verb for people has."""
    parser.add_argument("--json", action="store_true", help="print the server's whole answer")


def shown(arguments: argparse.Namespace, answer: bytes) -> bool:
    """Whether the answer was asked for as JSON, and is printed now."""
    if arguments.json:
        print(json.dumps(json.loads(answer), indent=2))
    return bool(arguments.json)
