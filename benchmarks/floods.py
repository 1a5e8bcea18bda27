"""Does a program on the device still get its answers while somebody on the network floods the server? Eight floods.

    python benchmarks/floods.py [--seconds 60] [--attacks NAME ...] [--out benchmarks/results/floods.json]

A server serves a small model on a Unix socket and on loopback TCP. A local client asks it over the socket, one request
after the other, alone and then during each attack, which another process drives over TCP (benchmarks/attacks.py).
Printed for each: the local client's share of its unloaded throughput, its p99 against the unloaded one, its errors, how
much memory the server grew, and how long after the attack a fresh TCP client got its answer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy
import psutil
from attacks import ATTACKS
from small_model import Serving, serving

from hybridge_edge.client import Client
from hybridge_edge.contract.errors import HybridgeError

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "floods.json"
LEAST_SHARE, MOST_P99, MOST_GROWTH_MB, MOST_RECOVERY_S = 0.45, 5.0, 64, 2.0
"""What is promised to the local client, and of the server."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the local client saw: answers a second, p99 in milliseconds, errors by code."""

    per_second: float
    p99_ms: float
    errors: dict[str, int]


@dataclass(frozen=True, slots=True)
class Flood:
    """One attack, beside the unloaded figures just before it."""

    attack: str
    alone: Load
    flooded: Load
    share: float
    p99_ratio: float
    grown_megabytes: float
    recovery_seconds: float
    strikes: int


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--attacks", nargs="+", choices=sorted(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hyb") as folder, serving(Path(folder)) as server:
        ask(server, 1.0)  # everything warm
        floods = [flood(server, name, options.seconds) for name in options.attacks]
    kept = sum(keeps(one) for one in floods)
    result = {
        "what": "a local client beside floods over TCP; alone is measured just before each",
        "seconds_each": options.seconds,
        "kept": kept,
        "floods": [asdict(one) for one in floods],
        "promise": f"share >= {LEAST_SHARE}, p99 <= {MOST_P99}x, 0 errors, growth <= {MOST_GROWTH_MB} MB, "
        f"recovery <= {MOST_RECOVERY_S} s",
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "system": platform.platform(),
        },
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "grpcio", "numpy")},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{kept} of {len(floods)} floods kept the promise: {result['promise']}")
    return 0


def flood(server: Serving, name: str, seconds: float) -> Flood:
    """Measure alone, attack, measure, and see when the network is served again."""
    alone = ask(server, min(seconds, 5.0))
    process = psutil.Process(server.worker_pid())
    held = process.memory_info().rss
    command = [sys.executable, str(HERE / "attacks.py"), name, server.tcp, str(seconds + 0.5)]
    attack = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    most = held
    slices = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        slices.append(ask(server, min(1.0, seconds)))
        most = max(most, process.memory_info().rss)
    strikes = int(attack.communicate(timeout=60)[0] or 0)
    recovery = recovered(server)
    flooded = together(slices)
    found = Flood(
        name,
        alone,
        flooded,
        round(flooded.per_second / alone.per_second, 3),
        round(flooded.p99_ms / alone.p99_ms, 2),
        round((most - held) / 1024 / 1024, 1),
        round(recovery, 2),
        strikes,
    )
    print(
        f"{name:15} share {found.share:5.2f}  p99 x{found.p99_ratio:5.2f}  errors {sum(flooded.errors.values())}  "
        f"+{found.grown_megabytes} MB  recovered in {found.recovery_seconds} s  {strikes} strikes",
        flush=True,
    )
    return found


def keeps(one: Flood) -> bool:
    return (
        one.share >= LEAST_SHARE
        and one.p99_ratio <= MOST_P99
        and not one.flooded.errors
        and one.grown_megabytes <= MOST_GROWTH_MB
        and one.recovery_seconds <= MOST_RECOVERY_S
    )


def ask(server: Serving, seconds: float) -> Load:
    """One request after the other over the Unix socket."""
    times: list[float] = []
    errors: dict[str, int] = {}
    with Client(server.unix, retry=False, direct=0, streams=0) as client:
        began = time.perf_counter()
        while (now := time.perf_counter()) - began < seconds:
            try:
                client.infer("watch", {"window": server.window}, timeout_s=5.0)
            except HybridgeError as error:
                errors[error.code] = errors.get(error.code, 0) + 1
            times.append(time.perf_counter() - now)
    took = time.perf_counter() - began
    return Load(round(len(times) / took, 1), round(float(numpy.quantile(times, 0.99)) * 1000, 3), errors)


def together(slices: list[Load]) -> Load:
    """Of several slices: their mean throughput, their middle p99, all errors."""
    errors: dict[str, int] = {}
    for one in slices:
        for code, count in one.errors.items():
            errors[code] = errors.get(code, 0) + count
    rate = sum(one.per_second for one in slices) / len(slices)
    return Load(round(rate, 1), round(float(numpy.median([one.p99_ms for one in slices])), 3), errors)


def recovered(server: Serving) -> float:
    """Seconds until a fresh client over TCP has an answer."""
    began = time.monotonic()
    while time.monotonic() - began < 30:
        try:
            with Client(server.tcp, retry=False, streams=0) as client:
                client.infer("watch", {"window": server.window}, timeout_s=1.0)
                return time.monotonic() - began
        except HybridgeError:
            time.sleep(0.05)
    return 30.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
