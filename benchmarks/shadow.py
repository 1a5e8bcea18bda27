"""What does a shadow cost those who ask the version that answers? The same requests with a shadow and without one.

    python benchmarks/shadow.py [--rounds 20] [--seconds 5] [--share 0.2] [--out benchmarks/results/shadow.json]

A server has version 1.0.0 of a model active. In half of the rounds 1.1.0, of the same size, stands beside it and is run
on a share of the requests; in the other half it is not even loaded. The halves alternate, and so does which of them
comes first. One caller in another process asks over the Unix socket: paced, as a sensor does, and one request after the
other without a pause, which leaves a shadow no lull. p50 and p99 of a whole request, the ratio of each pair of rounds,
and how much of the share was really compared: a shadow that is never run would cost nothing either.

The goal: at a share of 20 % the p99 is at most 1.03 times what it is without (median over the pairs).
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
from peers.models import MODELS, Model
from peers.package import write_package
from peers.processes import end_on_sigterm, surroundings
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.states import Mode

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "shadow.json"
GOAL = 1.03
LOADS = {"tiny": (100.0, 0.0), "sensor": (100.0, 0.0), "mobilenetv2": (10.0, 0.0)}
"""Requests a second by model; 0 is one after the other."""
SETTLE_S = 0.5


@dataclass
class Load:
    """One model under one load, and what its rounds measured: pairs without a shadow and with it."""

    model: Model
    rate: float
    caller: subprocess.Popen[str]
    first: Handover
    second: Handover
    without: list[dict[str, float]] = field(default_factory=list)
    beside: list[dict[str, float]] = field(default_factory=list)
    dropped: dict[str, float] = field(default_factory=dict)

    def figures(self, share: float) -> dict[str, Any]:
        """Medians over rounds, and of the pairs' ratios."""

        def middle(rounds: list[dict[str, float]], name: str) -> float:
            return round(statistics.median(one[name] for one in rounds), 1)

        def ratios(name: str) -> list[float]:
            return sorted(one[name] / other[name] for one, other in zip(self.beside, self.without, strict=True))

        asked = sum(one["requests"] for one in self.beside)
        compared = sum(one["compared"] for one in self.beside)
        p99 = ratios("p99_us")
        return {
            "model": self.model.name,
            "load": f"{self.rate:g} requests a second" if self.rate else "one after the other",
            "without": {name: middle(self.without, name) for name in ("p50_us", "p99_us")},
            "with": {name: middle(self.beside, name) for name in ("p50_us", "p99_us")},
            "p50_ratio": round(statistics.median(ratios("p50_us")), 3),
            "p99_ratio": round(statistics.median(p99), 3),
            "p99_ratio_quartiles": [round(float(value), 3) for value in numpy.percentile(p99, (25, 75))],
            "requests": int(asked),
            "compared": int(compared),
            "compared_of_the_share": round(compared / (asked * share), 3) if asked * share else 0.0,
            "dropped": {reason: int(count) for reason, count in sorted(self.dropped.items())},
            "late": int(sum(one["late"] for one in (*self.without, *self.beside))),
        }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of each half, model and load")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one half of a round")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--models", nargs="+", choices=sorted(LOADS), default=list(LOADS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        loads = measure(Path(folder), options)
    figures = [load.figures(options.share) for load in loads]
    result = {
        "what": "a request to the version that answers, with a shadow beside it and without; medians over rounds",
        "command": f"python benchmarks/shadow.py --rounds {options.rounds} --seconds {options.seconds:g}"
        f" --share {options.share:g}",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "numpy")},
        "models": {name: MODELS[name].what for name in options.models},
        "share": options.share,
        "goal": f"p99 at most {GOAL} times what it is without",
        "figures": figures,
    }
    print_table(figures)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(folder: Path, options: argparse.Namespace) -> list[Load]:
    """Start the server and the callers, ask in turns, end everything."""
    signer = CryptoSigner.generate_ed25519()
    our_server.write_trust(folder, signer)
    handovers = {
        (name, number): write_package(
            folder / "packages" / name / number, MODELS[name], signer, number, confidence=True
        )
        for name in options.models
        for number in ("1.0.0", "1.1.0")
    }  # fmt: skip
    environment = {**our_server.surroundings(folder), "HYBRIDGE_SHADOW_SHARE": str(options.share)}
    loads: list[Load] = []
    epoch = 1
    with our_server.running(folder, environment=environment) as endpoint:
        try:
            for name in options.models:
                our_server.activate(folder, handovers[name, "1.0.0"])
                loads += [
                    Load(
                        MODELS[name], rate, _caller(endpoint.inference, MODELS[name]),
                        handovers[name, "1.0.0"], handovers[name, "1.1.0"],
                    )
                    for rate in LOADS[name]
                ]  # fmt: skip
            for number in range(options.rounds):
                print(f"round {number + 1} of {options.rounds}", flush=True)
                for load in loads:
                    for beside in (number % 2 == 1, number % 2 == 0):
                        epoch += 1
                        _hand_over(folder, load, beside, epoch)
                        _round(folder, load, beside, options.seconds)
                    epoch += 1
                    _hand_over(folder, load, False, epoch)
        finally:
            for load in loads:
                load.caller.kill()
                load.caller.wait()
    return loads


def _caller(target: str, model: Model) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "peers.paced_load", target, model.name, json.dumps([1, *model.shape])],
        env=surroundings(PYTHONPATH=str(HERE)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _hand_over(folder: Path, load: Load, beside: bool, epoch: int) -> None:
    """Have the second version stand beside the first, or go. Raises RuntimeError where it does not."""
    made = load.second if beside else load.first
    mode, wanted = (Mode.SHADOW, "SHADOW") if beside else (Mode.ACTIVATE, "ACTIVE")
    handover = Handover(made.model, made.package, made.digest, "benchmark", epoch, mode)
    answer = our_server.ask(folder, handover.to_line())
    if answer.get("state") != wanted:
        raise RuntimeError(f"{load.model.name} did not become {wanted}: {answer}")
    time.sleep(SETTLE_S)


def _round(folder: Path, load: Load, beside: bool, seconds: float) -> None:
    assert load.caller.stdin is not None
    assert load.caller.stdout is not None
    load.caller.stdin.write(f"{seconds} {load.rate}\n")
    load.caller.stdin.flush()
    line = load.caller.stdout.readline()
    if not line:
        raise SystemExit(f"shadow: the caller of {load.model.name} ended")
    told = json.loads(line)
    if told["versions"] != ["1.0.0"]:
        raise SystemExit(f"shadow: {told['versions']} answered")
    p50, p99 = numpy.percentile(told["times_us"], (50, 99))
    found: dict[str, float] = {
        "p50_us": float(p50), "p99_us": float(p99), "requests": told["asked"], "late": told["late"],
        "compared": 0.0,
    }  # fmt: skip
    if beside:
        found["compared"] = _compared(folder, load)
    (load.beside if beside else load.without).append(found)


def _compared(folder: Path, load: Load) -> float:
    """Runs of the shadow so far, and what was dropped."""
    said: dict[str, Any] = our_server.ask(folder, canonical({"verb": "shadow", "model": load.model.name}))
    runs = float(said["evidence"].get("requests", 0))
    for reason, count in said["dropped"].items():
        load.dropped[reason] = load.dropped.get(reason, 0) + count
    return runs


def print_table(figures: list[dict[str, Any]]) -> None:
    print(f"{'':12} {'':24} {'p50 us':>16} {'p99 us':>16} {'p50':>6} {'p99':>6} {'compared':>9}")
    for one in figures:
        without, beside = one["without"], one["with"]
        print(
            f"{one['model']:12} {one['load']:24} {without['p50_us']:7.0f} {beside['p50_us']:8.0f} "
            f"{without['p99_us']:7.0f} {beside['p99_us']:8.0f} {one['p50_ratio']:6.2f} {one['p99_ratio']:6.2f} "
            f"{one['compared_of_the_share']:9.0%}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
