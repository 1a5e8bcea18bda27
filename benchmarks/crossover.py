"""From which size on is shared memory not slower than the socket? What SHARED_BYTES of our client rests on.

    python benchmarks/crossover.py [--rounds 7] [--seconds 0.5] [--out benchmarks/results/crossover.json]

One client sends its tensor inline over the direct socket, the other through memory; both ask the same server, a process
of its own, the same mean of rows, in turns request by request, for sizes of 4 KiB to 2 MiB, powers of two, interleaved
in rounds. The crossover is the smallest size from which memory's median is not above the socket's at any larger size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy
import our_server
from peers.models import INPUT, ROWS
from peers.package import write_package
from peers.processes import end_on_sigterm
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge.client import Client

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "crossover.json"
SMALLEST, LARGEST = 4 * 1024, 2 * 1024 * 1024
SIZES = tuple(SMALLEST << step for step in range((LARGEST // SMALLEST).bit_length()))
_NEVER = 1 << 40
_WARM = 5
"""Requests of each client before the first that counts: its segment is made, its pages are there."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One size in bytes: medians over rounds of each round's median, in microseconds."""

    bytes: int
    inline_us: float
    shared_us: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each size and round")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        figures = measure(Path(folder), options.rounds, options.seconds)
    found = crossover(figures)
    result = {
        "what": "a request over the direct socket, its tensor inline or in shared memory; medians over rounds",
        "command": f"python benchmarks/crossover.py --rounds {options.rounds} --seconds {options.seconds:g}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "numpy")},
        "model": ROWS.what,
        "crossover_bytes": found,
        "figures": [asdict(one) for one in figures],
    }
    for one in figures:
        print(f"{one.bytes:>9,} bytes: inline {one.inline_us:7.1f} us, shared {one.shared_us:7.1f} us")
    print(f"crossover: {found:,} bytes" if found else "crossover: none, memory is slower at the largest size")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def crossover(figures: Sequence[Figure]) -> int:
    """The smallest size from which memory is not slower at every larger one; 0 where there is none."""
    found = 0
    for one in sorted(figures, key=lambda one: one.bytes, reverse=True):
        if one.shared_us > one.inline_us:
            break
        found = one.bytes
    return found


def measure(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """Start the server and ask it. Raises RuntimeError where it does not start or refuses the model."""
    (folder / "run").mkdir(mode=0o700)
    signer = CryptoSigner.generate_ed25519()
    our_server.write_trust(folder, signer)
    inline: dict[int, list[float]] = {size: [] for size in SIZES}
    shared: dict[int, list[float]] = {size: [] for size in SIZES}
    with our_server.running(folder) as endpoint:
        handover = write_package(folder / "package", ROWS, signer, max_batch=LARGEST // SMALLEST)
        our_server.activate(folder, handover)
        ways = {"direct": 1, "streams": 0, "retry": False}
        with (
            Client(endpoint.inference, shared_bytes=_NEVER, **ways) as one,  # type: ignore[arg-type]
            Client(endpoint.inference, shared_bytes=SMALLEST, **ways) as other,  # type: ignore[arg-type]
        ):
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", flush=True)
                for size in SIZES:
                    first, second = in_turns((one, other), size, seconds)
                    inline[size].append(first)
                    shared[size].append(second)
    return [
        Figure(size, round(statistics.median(inline[size]), 1), round(statistics.median(shared[size]), 1))
        for size in SIZES
    ]


def in_turns(clients: Sequence[Client], size: int, seconds: float) -> list[float]:
    """Each client's median, in microseconds, of requests of ``size`` bytes made in turns."""
    values = numpy.random.default_rng(size).normal(size=(size // SMALLEST, *ROWS.shape)).astype(numpy.float32)
    times: list[list[int]] = [[] for _ in clients]
    for _ in range(_WARM):
        for client in clients:
            client.infer(ROWS.name, {INPUT: values}, capture=False)
    now = time.perf_counter_ns
    until = now() + int(seconds * 1e9)
    while now() < until:
        for client, its in zip(clients, times, strict=True):
            began = now()
            client.infer(ROWS.name, {INPUT: values}, capture=False)
            its.append(now() - began)
    return [statistics.median(its) / 1000 for its in times]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
