"""How fast is hybridge-edge beside other servers of ONNX models? All of them on this machine, with the same models.

    python benchmarks/serving.py [--contenders NAME ...] [--models NAME ...] [--rounds 5] [--seconds 1.5]
                                 [--environments DIR] [--out benchmarks/results/serving.json]

Starts every contender with all models in an environment of its own, pinned in benchmarks/locks and made on demand;
then asks them in turns, round by round, from one process with raw requests: gRPC contenders with grpcio, HTTP ones over
a socket kept open, one caller and sixteen. Everybody runs ONNX Runtime with one intra-op thread and no spinning. Prints
medians over rounds, ratios of ours to the others, and what was promised; writes everything, each round's figures too.
A contender that does not start is a line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from peers import table
from peers.contenders import CONTENDERS, Contender
from peers.environments import ENVIRONMENTS, NoEnvironment
from peers.models import MODELS, export
from peers.processes import end_on_sigterm
from peers.rounds import CALLERS, Slot, Started, ring

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "serving.json"
ENVIRONMENTS_FOLDER = HERE / ".environments"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--contenders", type=_among(names), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--models", type=_among(list(MODELS)), default=list(MODELS), help=f"of {','.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each contender, model and round")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS_FOLDER, help="where environments are kept")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--lock", action="store_true", help="only write benchmarks/locks anew")
    options = parser.parse_args(arguments)
    if options.lock:
        return write_locks()
    missing = make_environments(options.environments.resolve(), options.contenders)
    began = time.monotonic()
    end_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        started, slots = run(Path(folder), options, missing)
    found = table.figures(slots)
    goals = table.goals(found, started, len(options.models))
    print("\n".join(table.lines(found, started, goals)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = report(options, started, slots, found, goals, time.monotonic() - began)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}", file=sys.stderr)
    return 0


def run(folder: Path, options: argparse.Namespace, missing: Mapping[str, str]) -> tuple[list[Started], list[Slot]]:
    """Start all, measure all, end all. ``missing``: environments that could not be made, and why."""
    models = [export(MODELS[name], folder) for name in options.models]
    slots = []
    with ring(folder, options.environments.resolve(), models) as all_of_them:
        for contender in chosen(options.contenders):
            started = all_of_them.start(contender, missing.get(contender.environment, ""))
            said = f"not started: {started.reason}" if started.reason else f"answers after {started.first_answer_s} s"
            print(f"{contender.name}: {said}", flush=True)
        all_of_them.measure_idle(2 * options.seconds)
        done = -1
        for slot in all_of_them.slots(options.rounds, options.seconds):
            if slot.round != done:
                done = slot.round
                print(f"round {done + 1} of {options.rounds}", flush=True)
            slots.append(slot)
        all_of_them.measure_memory()
        return all_of_them.started, slots


def chosen(names: Sequence[str]) -> list[Contender]:
    return [contender for contender in CONTENDERS if contender.name in names]


def make_environments(folder: Path, contenders: Sequence[str]) -> dict[str, str]:
    """Before anything is measured. The ones that cannot be made, and why."""
    missing = {}
    for name in dict.fromkeys(one.environment for one in chosen(contenders) if one.environment):
        try:
            ENVIRONMENTS[name].python(folder)
        except NoEnvironment as error:
            missing[name] = str(error)
    return missing


def write_locks() -> int:
    """Resolve every environment's requirements anew. Returns the exit code."""
    try:
        for environment in ENVIRONMENTS.values():
            environment.write_lock()
    except NoEnvironment as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    return 0


def report(
    options: argparse.Namespace,
    started: Sequence[Started],
    slots: Sequence[Slot],
    found: Sequence[table.Figures],
    goals: Sequence[table.Goal],
    seconds: float,
) -> dict[str, object]:
    return {
        "what": "servers of ONNX models on one machine, asked in turns from one process; medians over rounds",
        "command": f"python benchmarks/serving.py --rounds {options.rounds} --seconds {options.seconds}",
        "callers": list(CALLERS),
        "models": {name: MODELS[name].what for name in options.models},
        "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in goals],
        "figures": [asdict(one) for one in found],
        "contenders": [
            {
                "name": one.contender.name,
                "what": one.contender.what,
                "versions": one.contender.versions(),
                "first_answer_s": one.first_answer_s,
                "memory_at_first_answers_mb": asdict(one.memory_at_first),
                "memory_after_all_rounds_mb": asdict(one.memory),
                "idle_cpu": one.idle_cpu,
                "not_measured": one.reason,
                "rows_not_measured": one.broken,
            }
            for one in started
        ],
        "rounds": [asdict(slot) for slot in slots],
        "seconds": round(seconds, 1),
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "processor": _processor(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _among(known: Sequence[str]) -> Callable[[str], list[str]]:
    def names(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return [name for name in known if name in found]

    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
