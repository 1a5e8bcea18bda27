"""How much does returned data help? All splits of examples/watch, through packages as a device would run them.

    python benchmarks/splits.py [--out benchmarks/results/splits.json]

For each split: train on the known people and compile (champion); run the replay windows of the new people through the
champion's own features.onnx; retrain with those features and their true labels, compile again; compare both packages on
the frozen slice. Once with every replayed window returned, once with what the default capture policy keeps.

What this shows and what not: replay and frozen slice are the same recordings, earlier and later in time, and the labels
are the recordings' own annotations.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.compile.bundle import compile_run
from hybridge_cloud.compile.evaluate import Evaluation, evaluate_package
from hybridge_cloud.package import read_package
from hybridge_cloud.training.features import graph_features
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.run import read_run
from hybridge_cloud.training.task import Samples, Task
from hybridge_cloud.training.train import ReturnedSamples, retrain_run, train_run

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = REPOSITORY / "examples" / "watch"
CAPTURE_SHARE = 0.1
CAPTURE_CONFIDENCE_BELOW = 0.6
CONFIDENCE_OUTPUT = "probabilities"


@dataclass(frozen=True, slots=True)
class SplitResult:
    """One split: rows of each part, and accuracies on the frozen slice measured through the packages."""

    split: int
    train_rows: int
    replay_rows: int
    captured_rows: int
    frozen_rows: int
    accuracy_before: float
    accuracy_after_captured: float
    accuracy_after_all: float
    balanced_before: float
    balanced_after_captured: float
    balanced_after_all: float
    seconds: float


def measure(split: int, folder: Path) -> SplitResult:
    """Turn one split in ``folder``."""
    started = time.monotonic()
    task = load_project(PROJECT).task()
    dataset = task.dataset(split)
    replay, frozen = dataset.replay, dataset.frozen
    assert replay is not None
    train_run(PROJECT, folder / "run", split)
    compile_run(folder / "run", folder / "champion")
    package = read_package(folder / "champion")
    features = graph_features(package.read(package.manifest.variants[0].features), replay.inputs)
    answers = evaluate_package(folder / "champion", replay.inputs, replay.labels, task)
    kept = captured(answers, split)

    def after(name: str, rows: NDArray[np.int64]) -> Evaluation:
        returned = ReturnedSamples({key: array[rows] for key, array in features.items()}, replay.labels[rows])
        retrain_run(PROJECT, folder / f"run-{name}", folder / "champion", returned, split)
        compile_run(folder / f"run-{name}", folder / name, "1.0.1")
        return _on(folder / name, frozen, task)

    before = _on(folder / "champion", frozen, task)
    after_captured = after("captured", kept)
    after_all = after("all", np.arange(len(replay)))
    return SplitResult(
        split=split,
        train_rows=len(dataset.train),
        replay_rows=len(replay),
        captured_rows=len(kept),
        frozen_rows=len(frozen),
        accuracy_before=before.metrics["accuracy"],
        accuracy_after_captured=after_captured.metrics["accuracy"],
        accuracy_after_all=after_all.metrics["accuracy"],
        balanced_before=before.metrics["balanced_accuracy"],
        balanced_after_captured=after_captured.metrics["balanced_accuracy"],
        balanced_after_all=after_all.metrics["balanced_accuracy"],
        seconds=round(time.monotonic() - started, 1),
    )


def captured(answers: Evaluation, seed: int) -> NDArray[np.int64]:
    """Rows that the default policy keeps: a random share, and every answer of low confidence."""
    confidence = answers.outputs[CONFIDENCE_OUTPUT].max(1)
    drawn = np.random.default_rng(seed).random(len(confidence)) < CAPTURE_SHARE
    return np.flatnonzero(drawn | (confidence < CAPTURE_CONFIDENCE_BELOW))


def _on(package: Path, samples: Samples, task: Task) -> Evaluation:
    return evaluate_package(package, samples.inputs, samples.labels, task)


def main() -> None:
    """Run every split and write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "results" / "splits.json")
    parser.add_argument("--splits", type=int, nargs="*", help="only these")
    options = parser.parse_args()
    splits = options.splits or range(len(json.loads((PROJECT / "splits.json").read_text())))
    results = []
    print("split  train replay captured frozen   before  after captured  after all")
    with tempfile.TemporaryDirectory(prefix="hybridge-splits-") as scratch:
        for split in splits:
            result = measure(split, Path(scratch, str(split)))
            versions = read_run(Path(scratch, str(split), "run")).config.versions
            results.append(result)
            print(
                f"{result.split:5} {result.train_rows:6} {result.replay_rows:6} {result.captured_rows:8} "
                f"{result.frozen_rows:6} {result.accuracy_before:8.3f} {result.accuracy_after_captured:15.3f} "
                f"{result.accuracy_after_all:10.3f}",
                flush=True,
            )
    document = {
        "what": "accuracy on the frozen slice before and after retraining, through compiled packages",
        "caution": "replay and frozen slice are the same recordings, earlier and later in time; labels are true",
        "capture": {"share": CAPTURE_SHARE, "confidence_below": CAPTURE_CONFIDENCE_BELOW},
        "versions": versions,
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": len(os.sched_getaffinity(0))},
        "splits": [asdict(result) for result in results],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {options.out}", file=sys.stderr)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
