"""What does the client cost that a program uses? Ours beside tritonclient, asking the same server of ours.

    python benchmarks/client.py [--rounds 5] [--seconds 1.5] [--out benchmarks/results/client.json]

Each client is a process of its own that turns arrays into a request and the answer into arrays, one request after the
other, in turns with the others. Over the Unix socket and over TCP on loopback; a tensor of 256 bytes with a small
model, and one of 602 kB with a model that only takes its mean. p50 and p99 of a whole request, and the processor time
of both sides for one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import our_server
from peers import package
from peers.models import MEANS, MODELS, Model
from peers.processes import Tree, end_on_sigterm, surroundings

from hybridge_edge import runtime

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "client.json"
KINDS = (
    "ours",
    "ours, nothing shared",
    "ours, stream",
    "ours, calls only",
    "ours, asyncio",
    "ours, asyncio, stream",
    "tritonclient",
    "tritonclient, stream",
    "tritonclient, asyncio",
)
PAIRS = (
    ("ours", "tritonclient"),
    ("ours", "tritonclient, stream"),
    ("ours", "ours, nothing shared"),
    ("ours, stream", "tritonclient, stream"),
    ("ours, stream", "ours, calls only"),
    ("ours, asyncio", "tritonclient, asyncio"),
    ("ours, asyncio", "ours, asyncio, stream"),
    ("ours, asyncio, stream", "tritonclient, asyncio"),
)
TRANSPORTS = ("Unix socket", "TCP")
SIZES = {model.name: model for model in (MODELS["tiny"], MEANS)}
READY_S = 60.0


@dataclass
class Row:
    """One client, transport and model, and what its rounds measured."""

    client: str
    transport: str
    model: str
    process: subprocess.Popen[str]
    rounds: list[dict[str, float]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Medians over rounds."""
        found = {
            name: round(statistics.median(one[name] for one in self.rounds), 1)
            for name in ("p50_us", "p99_us", "client_cpu_us", "server_cpu_us")
        }
        return {"client": self.client, "transport": self.transport, "model": self.model, **found}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each client, transport, model and round")
    parser.add_argument("--clients", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=list(SIZES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    end_on_sigterm()
    models = tuple(SIZES[name] for name in options.models)
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        rows = measure(Path(folder), models, options)
    figures = [row.figures() for row in rows]
    result = {
        "what": "a program's request through a client library, arrays in and arrays out; medians over rounds",
        "command": f"python benchmarks/client.py --rounds {options.rounds} --seconds {options.seconds:g}",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("hybridge", "tritonclient", "grpcio", "onnxruntime", "numpy")},
        "models": {model.name: model.what for model in models},
        "figures": figures,
        "ratios": ratios(figures),
    }
    print_table(result)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(folder: Path, models: tuple[Model, ...], options: argparse.Namespace) -> list[Row]:
    """Start the server and all clients, ask in turns, end everything."""
    (folder / "run").mkdir(mode=0o700)
    environment = surroundings(HYBRIDGE_RUNTIME_DIR=str(folder / "run"), HYBRIDGE_TRUST=str(folder / "trust.json"))
    package.activate(folder, environment, models)
    tree = Tree.start(our_server.command(folder, "127.0.0.1:0"), environment, folder / "server.log", folder)
    rows: list[Row] = []
    try:
        until = time.monotonic() + READY_S
        while not (folder / "run" / runtime.ENDPOINT_FILE).exists():
            if tree.ended() or time.monotonic() > until:
                raise SystemExit(f"client: the server did not start: {tree.ended()}")
            time.sleep(0.02)
        found = runtime.Endpoint.read(folder / "run")
        targets = dict(zip(TRANSPORTS, (found.inference, found.tcp), strict=True))
        rows = [
            Row(kind, transport, model.name, start(kind, targets[transport], model))
            for model in models
            for transport in TRANSPORTS
            for kind in options.clients
        ]
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for row in rows:
                before = tree.cpu_seconds()
                told = ask(row, options.seconds)
                times, count = told["times_us"], max(1, len(told["times_us"]))
                # Warming up is in the server's time and not among the requests: a tenth of it, alike for all.
                p50, p99 = numpy.percentile(times, (50, 99))
                row.rounds.append(
                    {
                        "p50_us": float(p50),
                        "p99_us": float(p99),
                        "client_cpu_us": told["cpu_s"] / count * 1e6,
                        "server_cpu_us": (tree.cpu_seconds() - before) / count * 1e6,
                    }
                )
    finally:
        for row in rows:
            row.process.kill()
            row.process.wait()
        tree.stop()
    return rows


def start(kind: str, target: str, model: Model) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "peers.client_load", kind, target, model.name, json.dumps([1, *model.shape])],
        env=surroundings(PYTHONPATH=str(HERE)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(row: Row, seconds: float) -> dict[str, Any]:
    """One round of one client."""
    assert row.process.stdin is not None
    assert row.process.stdout is not None
    row.process.stdin.write(f"{seconds}\n")
    row.process.stdin.flush()
    line = row.process.stdout.readline()
    if not line:
        raise SystemExit(f"client: {row.client} over {row.transport} with {row.model} ended")
    told: dict[str, Any] = json.loads(line)
    return told


def ratios(figures: list[dict[str, Any]]) -> dict[str, float]:
    """p50 of ours over tritonclient's of the same kind."""
    p50 = {(one["client"], one["transport"], one["model"]): one["p50_us"] for one in figures}
    made = {}
    for transport, model in dict.fromkeys((transport, model) for _, transport, model in p50):
        for ours, other in PAIRS:
            one, another = p50.get((ours, transport, model)), p50.get((other, transport, model))
            if one is not None and another is not None:
                made[f"{model}, {transport}: {ours} / {other}"] = round(one / another, 3)
    return made


def print_table(result: dict[str, Any]) -> None:
    print(f"{'':14} {'':12} {'':22} {'p50 us':>8} {'p99 us':>8} {'client CPU':>10} {'server CPU':>10}")
    for one in result["figures"]:
        print(
            f"{one['model']:14} {one['transport']:12} {one['client']:22} {one['p50_us']:8.0f} {one['p99_us']:8.0f}"
            f" {one['client_cpu_us']:10.0f} {one['server_cpu_us']:10.0f}"
        )
    for what, value in result["ratios"].items():
        print(f"{what}: {value:.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
