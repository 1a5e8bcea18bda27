"""The whole of it on real data: returned features and labels in, a better package published exactly once."""

from __future__ import annotations

import json
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
from hybridge_cloud.compile.bundle import compile_run
from hybridge_cloud.compile.evaluate import evaluate_package
from hybridge_cloud.data import labels
from hybridge_cloud.data.batches import read_batch
from hybridge_cloud.data.dataset import BatchEntry, Dataset, DatasetCounts
from hybridge_cloud.data.label import Label
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.retrain import archive, claim
from hybridge_cloud.retrain import status as standing
from hybridge_cloud.retrain.claim import DATASET_VARIABLE, Duplicate
from hybridge_cloud.retrain.plan import Plan
from hybridge_cloud.retrain.stages import Stages
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_cloud.signing import generate_key, sign_package
from hybridge_cloud.training.features import graph_features
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.train import train_run
from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.trust import read_trust

WATCH = Path(__file__).resolve().parents[3] / "examples" / "watch"
MODEL, FLEET, PIPELINE, QUIET = "watch", "turn", "turn-watch", "turn-quiet"
EXECUTION = "00000000-0000-4000-8000-000000000001"
WAIT_SECONDS = 120


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


def ended(execution: str, pipeline: str) -> str:
    """The status of an execution once it has one."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (status := codepipeline.execution(pipeline, execution).status) == "InProgress":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return status


def test_returned_features_and_labels_become_a_better_published_version_and_a_second_execution_has_no_effect(
    turn: Turn,
    bucket: Bucket,
    device: Callable[..., Any],
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The stages run here, by the first execution's id; tests/system turns the loop with a build for each."""
    half = len(turn.labels) // 2
    for thing, start, end in (("left", 0, half), ("right", half, len(turn.labels))):
        send(turn, device, range(start, end), thing)
    lines = turn.folder / "labels.csv"
    lines.write_text("sample_id,label\n" + "".join(f"{i},{t}\n" for i, t in zip(turn.ids, turn.labels, strict=True)))
    assert hybridge("labels", "import", lines, "--model", MODEL, "--source", "recordings") == 0
    nothing = codepipeline.Stage("nothing", "nothing", {})
    source = archive.upload(bucket, load_project(turn.project))
    role = codepipeline.account_role("hybridge")
    declared = codepipeline.Pipeline(QUIET, role, bucket.name, source, (DATASET_VARIABLE,), (nothing,))
    codepipeline.create_or_update(declared)
    gate = ("retrain", "gate", "--model", MODEL, "--pipeline", QUIET, "--until-started", "--min-samples", "500")
    assert hybridge(*gate, "--device-share", "0.6", "--min-devices", "2", "--timeout-seconds", "30") == 0
    (first,) = codepipeline.executions(QUIET, 10)
    dataset = first.variables[DATASET_VARIABLE]

    def build(stage: str) -> Stages:
        return stages(turn, bucket, dataset, tmp_path / stage, share=0.6, execution=first.execution_id)

    build("quality").quality()
    build("train").train()
    build("evaluate").evaluate()
    build("publish").publish(turn.key)
    capsys.readouterr()
    assert hybridge("retrain", "status", "--model", MODEL) == 0
    assert f"{len(turn.labels)} labelled (by recordings)" in capsys.readouterr().out
    assert hybridge("retrain", "status", "--model", MODEL, "--json") == 0
    status = json.loads(capsys.readouterr().out)
    assert status["returned"]["samples"] == status["returned"]["labelled"] == len(turn.labels)
    (found,) = status["datasets"]
    assert (found["key"], found["stands"]) == (dataset, "published")
    assert (found["claimed_by"], found["duplicates"]) == (first.execution_id, 0)
    comparison = found["evaluated"]["comparison"]
    assert comparison["low"] > 0
    assert comparison["champion"] < comparison["challenger"]
    # What devices returned was trained on, and never judges: the frozen slice of the run is the champion's own.
    frozen_file = f"runs/{MODEL}/dataset-000001/run/frozen.npz"
    assert bucket.get(frozen_file) == (turn.folder / "run" / "frozen.npz").read_bytes()
    published = registry.get(bucket, MODEL, "2.0.0")
    assert (published.dataset, published.parent) == (dataset, turn.champion.digest)
    assert published.features_digest == turn.champion.features_digest
    # What a rollout holds devices to: how often the two disagree on the slice that judged them, in the signed manifest.
    folder = turn.folder / "published"
    manifest = publishing.fetch(MODEL, "2.0.0", folder, read_trust(turn.trust), bucket)
    task = load_project(turn.project).task()
    frozen = task.dataset(0).frozen
    before, after = (
        evaluate_package(package, frozen.inputs, frozen.labels, task).outputs["probabilities"].argmax(1)
        for package in (turn.folder / "package", folder)
    )
    assert manifest.comparisons == (Comparison(turn.champion.digest, len(frozen), int((before != after).sum())),)
    # A second execution of the same dataset, by real builds, ends as a duplicate at its first stage.
    create = ("retrain", "pipeline", "create", "--name", PIPELINE, "--project", turn.project, "--fleet", FLEET)
    assert hybridge(*create, "--signing-key", turn.key, "--trust", turn.trust, "--device-share", "0.6") == 0
    second = codepipeline.start(PIPELINE, {DATASET_VARIABLE: dataset})
    assert ended(second, PIPELINE) == "Failed"
    assert ended(first.execution_id, QUIET) == "Succeeded"
    assert standing.datasets(bucket, MODEL)[0].duplicates == 1
    assert registry.versions(bucket, MODEL) == ("1.0.0", "2.0.0")


def numbered(turn: Turn, bucket: Bucket, number: int, batch: str, known: dict[str, str]) -> str:
    """A dataset of one batch and these labels, written as a gate writes it."""
    labelled, _ = labels.store(bucket, MODEL, [Label(sample, text, "test") for sample, text in known.items()], number)
    entry = BatchEntry.of(read_batch(bucket, batch))
    digest = turn.champion.features_digest
    counts = DatasetCounts(entry.count, 0, len(known), 1)
    dataset = Dataset(MODEL, number, digest, 0, (entry,), (labelled,), counts, number)
    bucket.put(dataset.key, dataset.to_bytes(), only_if_absent=True)
    return dataset.key


def stages(
    turn: Turn, bucket: Bucket, dataset: str, work: Path, share: float = 1.0, execution: str = EXECUTION
) -> Stages:
    plan = Plan(archive.upload(bucket, load_project(turn.project)), FLEET, turn.trust.read_text(), device_share=share)
    work.mkdir()
    return Stages(bucket, plan, dataset, execution, work, lambda _: None)


def test_a_tenth_of_flipped_labels_is_refused_before_training_and_said_again_when_repeated(
    turn: Turn, bucket: Bucket, device: Callable[..., Any], tmp_path: Path
) -> None:
    batch = send(turn, device, range(len(turn.labels)), "poisoned")
    generator = np.random.default_rng(3)
    known = dict(zip(turn.ids, turn.labels, strict=True))
    for sample in generator.choice(turn.ids, len(turn.ids) // 10, replace=False):
        known[sample] = turn.champion.labels[(turn.champion.labels.index(known[sample]) + 1) % 7]
    dataset = numbered(turn, bucket, 901, batch, known)
    for attempt in ("first", "again"):
        with pytest.raises(Refused, match=r"labels contradict their neighbours \((6|7|8|9|10|11)\."):
            stages(turn, bucket, dataset, tmp_path / attempt).quality()
    with pytest.raises(Refused, match="was not accepted"):
        stages(turn, bucket, dataset, tmp_path / "train").train()


def test_one_device_may_not_make_a_dataset_alone_and_unknown_labels_are_named(
    turn: Turn, bucket: Bucket, device: Callable[..., Any], tmp_path: Path
) -> None:
    batch = send(turn, device, range(100), "alone")
    known = dict(zip(turn.ids[:100], turn.labels[:100], strict=True))
    with pytest.raises(Refused, match=r"1 devices gave .* more than 5\.0%.*--device-share"):
        stages(turn, bucket, numbered(turn, bucket, 902, batch, known), tmp_path / "share", 0.05).quality()
    known[turn.ids[0]] = "juggling"
    with pytest.raises(Refused, match="knows no label 'juggling'"):
        stages(turn, bucket, numbered(turn, bucket, 903, batch, known), tmp_path / "label").quality()


def test_a_stage_out_of_turn_or_of_another_execution_has_no_effect(
    turn: Turn, bucket: Bucket, device: Callable[..., Any], tmp_path: Path
) -> None:
    batch = send(turn, device, range(100, 200), "early")
    known = dict(zip(turn.ids[100:200], turn.labels[100:200], strict=True))
    dataset = numbered(turn, bucket, 904, batch, known)
    own = stages(turn, bucket, dataset, tmp_path / "own")
    with pytest.raises(Refused, match="was not claimed"):
        own.train()
    own.quality()
    with pytest.raises(Refused, match="has no 'run'"):
        own.evaluate()
    with pytest.raises(Refused, match="judged better"):
        own.publish(turn.key)
    claim.claim(bucket, dataset, EXECUTION)
    with pytest.raises(Duplicate):
        claim.claim(bucket, dataset, EXECUTION.replace("1", "2"))


def test_a_challenger_that_learnt_nothing_new_is_not_promoted(
    turn: Turn, bucket: Bucket, device: Callable[..., Any], tmp_path: Path
) -> None:
    """The same seed and a handful of samples: as good as the champion, and no better."""
    batch = send(turn, device, range(200), "little")
    rows = range(0, 200, 8)
    dataset = numbered(turn, bucket, 905, batch, {turn.ids[row]: turn.labels[row] for row in rows})
    own = stages(turn, bucket, dataset, tmp_path / "own")
    own.quality()
    own.train()
    own.train()
    with pytest.raises(Refused, match="is not promoted"):
        own.evaluate()
    with pytest.raises(Refused, match="judged better"):
        own.publish(turn.key)


def test_a_project_or_plan_that_was_altered_in_the_bucket_is_refused(
    turn: Turn, bucket: Bucket, tmp_path: Path
) -> None:
    project = load_project(turn.project)
    assert archive.pack(project) == archive.pack(project)
    key = archive.upload(bucket, project)
    folder = tmp_path / "fetched"
    folder.mkdir()
    archive.fetch(bucket, key, folder)
    assert load_project(folder).sources() == project.sources()
    altered = key.replace(key[-10:-4], "000000")
    bucket.put(altered, bucket.get(key))
    (tmp_path / "other").mkdir()
    with pytest.raises(HybridgeError, match="altered"):
        archive.fetch(bucket, altered, tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
