"""The whole of it on real data: returned features and labels in, a better package published by the real pipeline."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridge_cloud import publish as publishing
from hybridge_cloud import registry
from hybridge_cloud.aws import pipeline as codepipeline
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.cli import main
from hybridge_cloud.compile.bundle import compile_run
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.retrain import status as standing
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_cloud.signing import generate_key, sign_package
from hybridge_cloud.training.features import graph_features
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.train import train_run
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.trust import read_trust

WATCH = Path(__file__).resolve().parents[3] / "examples" / "watch"
MODEL, FLEET, PIPELINE = "watch", "turn", "turn-watch"
EXECUTION = "00000000-0000-4000-8000-000000000001"
WAIT_SECONDS = 150


@dataclass(frozen=True)
class Turn:
    """A fleet that runs version 1.0.0, and what its two devices could return."""

    folder: Path
    project: Path
    key: Path
    trust: Path
    champion: Manifest
    features: np.ndarray
    labels: list[str]

    @property
    def ids(self) -> list[str]:
        return [f"replay/{row}" for row in range(len(self.labels))]


@pytest.fixture(scope="module")
def turn(sandbox: RunningSandbox, tmp_path_factory: pytest.TempPathFactory) -> Turn:
    folder = tmp_path_factory.mktemp("turn")
    project = folder / "watch"
    project.mkdir()
    for name, data in load_project(WATCH).sources().items():
        (project / name).write_bytes(data.replace(b"epochs = 30", b"epochs = 8"))
    bucket = Bucket(sandbox.bucket)
    train_run(project, folder / "run")
    compiled = compile_run(folder / "run", folder / "package")
    generate_key(folder / "key.pem", folder / "trust.json")
    sign_package(folder / "package", folder / "key.pem")
    fleet_record.create(bucket, FLEET, "hybridge")
    publishing.publish(folder / "package", FLEET, read_trust(folder / "trust.json"), bucket)
    wanted = fleet_record.FleetModel(MODEL, "1.0.0", compiled.manifest.digest, "test", 1)
    fleet_record.change(bucket, FLEET, lambda found: replace(found, epoch=1).with_model(wanted))
    replay = load_project(project).task().dataset(0).replay
    assert replay is not None
    features = graph_features((folder / "package" / "features.onnx").read_bytes(), replay.inputs)["features"]
    texts = [compiled.manifest.labels[index] for index in replay.labels.tolist()]
    return Turn(folder, project, folder / "key.pem", folder / "trust.json", compiled.manifest, features, texts)


def send(turn: Turn, device: Callable[..., Any], rows: range, thing: str) -> str:
    made = device(thing, MODEL, features_digest=turn.champion.features_digest)
    chosen = list(rows)
    key: str = made.batch(rows.start, len(chosen), features=turn.features[chosen], ids=[turn.ids[row] for row in rows])
    return key


def hybridge(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run the command line here; anything but success is an error."""
    monkeypatch.setattr(sys, "argv", ["hybridge", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_returned_features_and_labels_become_a_better_published_version_by_one_execution(
    turn: Turn, bucket: Bucket, device: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    half = len(turn.labels) // 2
    for thing, start, end in (("left", 0, half), ("right", half, len(turn.labels))):
        send(turn, device, range(start, end), thing)
    lines = turn.folder / "labels.csv"
    lines.write_text("sample_id,label\n" + "".join(f"{i},{t}\n" for i, t in zip(turn.ids, turn.labels, strict=True)))
    hybridge(monkeypatch, "labels", "import", lines, "--model", MODEL, "--source", "recordings")
    hybridge(
        monkeypatch,
        *("retrain", "pipeline", "create", "--name", PIPELINE, "--project", turn.project, "--fleet", FLEET),
        *("--signing-key", turn.key, "--trust", turn.trust, "--device-share", "0.6"),
    )
    hybridge(
        monkeypatch,
        *("retrain", "gate", "--model", MODEL, "--pipeline", PIPELINE, "--until-started", "--min-samples", "500"),
        *("--device-share", "0.6", "--min-devices", "2", "--timeout-seconds", "30"),
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := next(iter(codepipeline.executions(PIPELINE, 1)))).status == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert found.status == "Succeeded", (turn.folder, found)
    capsys.readouterr()
    hybridge(monkeypatch, "retrain", "status", "--model", MODEL, "--json")
    status = json.loads(capsys.readouterr().out)
    assert status["returned"]["samples"] == status["returned"]["labelled"] == len(turn.labels)
    (dataset,) = status["datasets"]
    assert (dataset["stands"], dataset["claimed_by"], dataset["duplicates"]) == ("published", found.execution_id, 0)
    comparison = dataset["evaluated"]["comparison"]
    assert comparison["low"] > 0
    assert comparison["champion"] < comparison["challenger"]
    published = registry.get(bucket, MODEL, "2.0.0")
    assert (published.dataset, published.parent) == (dataset["key"], turn.champion.digest)
    assert published.features_digest == turn.champion.features_digest
    # A second execution of the same dataset ends as a duplicate, and publishes nothing.
    second = codepipeline.start(PIPELINE, {"DATASET": dataset["key"]})
    while codepipeline.execution(PIPELINE, second).status == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert codepipeline.execution(PIPELINE, second).status == "Failed"
    assert standing.datasets(bucket, MODEL)[0].duplicates == 1
    assert registry.versions(bucket, MODEL) == ("1.0.0", "2.0.0")
