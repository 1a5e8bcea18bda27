"""Speaks to the management socket of this device's server, and turns its refusals into ours."""

from __future__ import annotations

import time
from pathlib import Path

from hybridge_edge import lines, runtime
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import Refused, Unavailable

ANSWER_LIMIT_BYTES = lines.MAX_ANSWER_BYTES
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
    reader = parse(answer, "server's answer", ANSWER_LIMIT_BYTES)
    if not reader.boolean("ok"):
        raise Refused(reader.text("message"), reader.text("remedy", ""))
    return reader, answer
