"""Starts callers, lets them go at once, and gathers what they measured. Whatever happens, none is left behind."""

from __future__ import annotations

import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy

from hybridge_edge.arrays import for_file
from hybridge_edge.bench.caller import Job, read_tally
from hybridge_edge.bench.tally import Tally, merged
from hybridge_edge.client import ClientTls
from hybridge_edge.contract.document import Reader, parse
from hybridge_edge.contract.errors import Refused, Unavailable
from hybridge_edge.engine import Array

MAX_CALLERS = 64
MAX_SECONDS = 600.0
READY_S = 60.0
"""How long all callers together may take to start."""
GRACE_S = 30.0
"""How long after the time is up a caller may still wait for its last answer."""
MAX_LINE_BYTES = 4 * 1024 * 1024


def load(
    address: str,
    transport: str,
    model: str,
    inputs: Mapping[str, Array],
    *,
    callers: int,
    seconds: float,
    tls: ClientTls | None = None,
) -> Tally:
    """Ask from ``callers`` processes for ``seconds``; the sum of what they measured.

    Args:
        address: as gRPC names it, such as ``unix:/run/hybridge/inference.sock``. inputs: raw arrays, batch first.
        tls: for a server on the network.

    Raises:
        Refused: the server refuses the very first requests, with its words. Unavailable: a caller did not answer.
    """
    with tempfile.TemporaryDirectory(prefix="hybridge-bench-") as folder:
        files = []
        for number, (name, array) in enumerate(inputs.items()):
            file = Path(folder) / f"{number}.npy"
            numpy.save(file, for_file(array), allow_pickle=False)
            files.append((name, str(file)))
        line = Job(transport, address, model, seconds, tuple(files), tls).to_line()
        processes = [_start() for _ in range(callers)]
        try:
            for process in processes:
                _write(process, line)
            until = time.monotonic() + READY_S
            for process in processes:
                _answer(process, until).boolean("ready")
            for process in processes:
                _write(process, b"go\n")
            until = time.monotonic() + seconds + GRACE_S
            return merged([read_tally(_answer(process, until)) for process in processes])
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hybridge_edge.bench.caller"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


def _write(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(line)
    except BrokenPipeError:
        raise Unavailable("A caller ended.", "Look at what it said above.") from None


def _answer(process: subprocess.Popen[bytes], until: float) -> Reader:
    """A caller's next line. Raises Refused with its words where it was refused, Unavailable where none comes."""
    assert process.stdout is not None
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            ready = selector.select(max(until - time.monotonic(), 0))
            more = process.stdout.read(65_536) if ready else b""
            if not more or len(data) > MAX_LINE_BYTES:
                raise Unavailable("A caller ended, or took too long.", "Look at what it said above.")
            data += more
    reader = parse(data, "caller's answer", MAX_LINE_BYTES)
    if "error" in reader.names():
        raise Refused(reader.text("message"), reader.text("remedy"))
    return reader
