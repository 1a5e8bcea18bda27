"""Are bad models stopped in ring 0 and put back, and good ones let through? Four core devices under load.

    python benchmarks/put_back.py [--runs 20] [--out benchmarks/results/put_back.json] [--work DIR]

Starts what scripts/demo starts (sandbox, four devices on four rings, version 1, a caller that asks each device 50
times a second and never retries), then does `runs` times: one rollout of the model that runs under a higher version,
which must pass every ring, and one of a package made bad on purpose, in turns with its classes mixed up and ten times
slower, which must be stopped in ring 0 and put back. Prints the times, and counts the requests that failed.
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
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from hybridge_cloud.demo import broker, first_turn, rollouts
from hybridge_cloud.demo.answers import LoadRecord
from hybridge_cloud.demo.rollouts import Told
from hybridge_cloud.demo.stage import FIRST, FLEET, Options, Stage
from hybridge_edge.contract.errors import HybridgeError

REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "put_back.json"
DEVICES = 4


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--work", type=Path, help="keep the sandbox's folder here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hybridge-put-back-") as temporary:
        folder = (options.work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        stage = Stage(Options(REPOSITORY / "examples" / "watch", folder, DEVICES, 0, False), Console())
        try:
            result = measure(stage, options.runs)
        except HybridgeError as error:
            print(f"put_back: {error}", file=sys.stderr)
            return error.exit_code
        finally:
            stage.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "rollouts"}, indent=2))
    return 0 if result["good_passed"] == result["bad_put_back_from_ring_0"] == options.runs else 1


def measure(stage: Stage, runs: int) -> dict[str, object]:
    """All rollouts, one after the other, on one fleet."""
    first_turn.train_and_pack(stage)
    first_turn.start_account(stage)
    first_turn.start_fleet(stage)
    first_turn.deploy_first(stage, broker.choose(stage))
    load = first_turn.start_load(stage)
    told: list[Told] = []
    runs_now = FIRST
    for run in range(runs):
        good, bad = f"{2 * run + 2}.0.0", f"{2 * run + 3}.0.0"
        told.append(attempt(stage, "good", runs_now, good))
        if told[-1].status == "SUCCEEDED":
            runs_now = good
        told.append(attempt(stage, ("shuffled", "slow")[run % 2], runs_now, bad))
    time.sleep(2.0)
    load.check()
    load.stop()
    records = [LoadRecord.read(stage.out / "load" / f"{device}.npz") for device in stage.devices]
    return report(stage, told, records)


def attempt(stage: Stage, kind: str, runs_now: str, new: str) -> Told:
    """Publish and roll out one package made from the one that runs; however it ends is a result."""
    with stage.progress.hop(f"{kind} {new}", f"made from {runs_now}"):
        rollouts.make(stage, kind, runs_now, new)
        stage.progress.command("publish", stage.package(new), "--fleet", FLEET)
        told = rollouts.roll_out(stage, kind, new, wanted="SUCCEEDED" if kind == "good" else "PUT_BACK", strict=False)
        stage.progress.say(told.sentence)
    return told


def report(stage: Stage, told: list[Told], records: list[LoadRecord]) -> dict[str, object]:
    bad = [item for item in told if item.kind != "good"]
    good = [item for item in told if item.kind == "good"]
    stopped = [item for item in bad if item.status == "PUT_BACK" and item.rings == 1]
    return {
        "what": "bad models stopped in ring 0 and put back, good ones let through; four local core devices under load",
        "good_passed": sum(item.status == "SUCCEEDED" for item in good),
        "good_rolled_out": len(good),
        "bad_put_back_from_ring_0": len(stopped),
        "bad_rolled_out": len(bad),
        "seconds_to_detect": spread([item.detect_seconds for item in stopped]),
        "seconds_to_put_back": spread([item.put_back_seconds for item in stopped]),
        "requests": sum(len(record.code) for record in records),
        "failed_requests": sum(int((record.code != 0).sum()) for record in records),
        "rollouts": [item.to_json() for item in told],
        "limits": rollouts.LIMITS,
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": platform.machine(),
            "system": platform.platform(),
        },
        "versions": {name: version(name) for name in ("hybridge", "onnxruntime", "grpcio", "numpy", "torch")},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Least, middle and greatest."""
    if not values:
        return {}
    return {"min": min(values), "median": round(statistics.median(values), 2), "max": max(values)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
