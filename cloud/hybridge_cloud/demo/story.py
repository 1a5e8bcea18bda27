"""The whole story in its order, and what it showed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from hybridge_cloud.compile.evaluate import evaluate_package
from hybridge_cloud.demo import broker, first_turn, page, rollouts
from hybridge_cloud.demo.answers import LoadRecord, distinct, prove
from hybridge_cloud.demo.rollouts import Told
from hybridge_cloud.demo.stage import FIRST, FLEET, SECOND, Options, Stage
from hybridge_cloud.demo.summary import Accuracy, Samples, Summary
from hybridge_cloud.retrain.compare import interval
from hybridge_edge.contract.errors import Refused

SETTLE_SECONDS = 3.0
"""The load sees the last version for a while."""


def turn(options: Options, console: Console) -> Summary:
    """Run every hop. What it started is stopped at its end, however it ends.

    Raises:
        Refused: naming the hop that failed, or the promise that was broken.
    """
    stage = Stage(options, console)
    try:
        first_turn.train_and_pack(stage)
        first_turn.start_account(stage)
        first_turn.start_fleet(stage)
        site = broker.choose(stage)
        first_turn.deploy_first(stage, site)
        load = first_turn.start_load(stage)
        first_turn.replay(stage, site)
        first_turn.import_labels(stage)
        first_turn.retrain(stage)
        fetch(stage, SECOND)
        told = (rollouts.good(stage), *rollouts.bad(stage))
        time.sleep(SETTLE_SECONDS)
        load.check()
        load.stop()
        return conclude(stage, told)
    except Refused as error:
        died = stage.chaos.sentence if stage.chaos is not None else ""
        raise Refused(f"The demo stopped at '{stage.progress.current}'. {died}{error.message}", error.remedy) from None
    finally:
        stage.close()


def fetch(stage: Stage, version: str) -> None:
    """Bring a package that the pipeline published back, checked as a device checks it."""
    target = f"{stage.project.name}@{version}"
    with stage.progress.hop("fetch", "what the pipeline published, checked as a device checks it"):
        stage.progress.command("package", "fetch", target, "--out", stage.package(version), "--trust", stage.trust)


def conclude(stage: Stage, told: tuple[Told, ...]) -> Summary:
    """Compare what the caller saw with what each package gives, count what S3 holds, and write both reports."""
    progress = stage.progress
    with progress.hop("summary", "what the caller saw, what S3 holds, how good each version is"):
        known = distinct(_expected(stage, (FIRST, *(item.version for item in told))))
        records = [LoadRecord.read(stage.out / "load" / f"{device}.npz") for device in stage.devices]
        status = stage.look.returned()
        summary = Summary(
            split=stage.options.split,
            fleet=FLEET,
            devices=stage.devices,
            before=_accuracy(stage, stage.package(FIRST)),
            after=_accuracy(stage, stage.package(SECOND)),
            frozen_windows=len(stage.dataset.frozen),
            samples=Samples(
                replayed=len(stage.replayed),
                captured=sum(stage.look.captured(device) for device in stage.devices),
                returned=int(status["returned"]["samples"]),
                duplicated=int(status["returned"]["duplicates"]),
            ),
            proofs=tuple(prove(record, known) for record in records),
            executions=_executions(status),
            rollouts=told,
            chaos=stage.chaos,
            seconds=progress.seconds,
            load_rate=first_turn.LOAD_RATE,
        )
        summary.write(stage.out / "report.json")
        page.write(summary, records, known, stage.out / "report.html")
    summary.check(SECOND)
    return summary


def _expected(stage: Stage, versions: tuple[str, ...]) -> Mapping[str, NDArray[np.float32]]:
    """What each package's own graphs give for the windows that the load asks, run here."""
    with np.load(stage.out / "probes.npz", allow_pickle=False) as probes:
        windows = {stage.task.inputs[0].name: probes["windows"]}
    count = len(next(iter(windows.values())))
    found = {}
    for version in versions:
        outputs = evaluate_package(stage.package(version), windows, np.zeros(count, np.int64), stage.task).outputs
        found[version] = next(iter(outputs.values())).astype(np.float32)
    return found


def _accuracy(stage: Stage, folder: Path) -> Accuracy:
    """On the frozen slice; the interval draws whole recordings again, since windows of one hang together."""
    frozen = stage.dataset.frozen
    correct = evaluate_package(folder, frozen.inputs, frozen.labels, stage.task).correct
    low, high = interval(correct.astype(np.float64), frozen.groups)
    return Accuracy(float(correct.mean()), low, high)


def _executions(status: dict[str, Any]) -> dict[str, int]:
    """Executions that CodePipeline ran, by the dataset they were started for."""
    return {item["key"]: len(item["executions"]) for item in status["datasets"]}
