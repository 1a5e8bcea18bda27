"""Training, runs, and retraining with frozen features."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hybridge_cloud.compile.bundle import Compiled, compile_run
from hybridge_cloud.compile.evaluate import evaluate_package
from hybridge_cloud.training.features import graph_features
from hybridge_cloud.training.loop import train_model
from hybridge_cloud.training.output_folder import output_folder
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.run import read_run
from hybridge_cloud.training.train import ReturnedSamples, retrain_run, train_run
from hybridge_edge.contract.errors import Conflict, InvalidInput, Refused


def returned_from(project: Path, package: Path) -> ReturnedSamples:
    replay = load_project(project).task().dataset(0).replay
    assert replay is not None
    features = graph_features((package / "features.onnx").read_bytes(), replay.inputs)
    return ReturnedSamples(features, replay.labels)


def test_a_run_holds_config_metrics_checkpoint_and_digests(run: Path) -> None:
    read = read_run(run)
    assert read.config.project == "watch"
    assert read.config.rows == {"train": 3142, "valid": 251, "frozen": 766, "returned": 0}
    assert read.config.data_digest.startswith("sha256:")
    assert (
        read.config.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    )  # one says the build, one may not
    assert read.metrics["valid.accuracy"] > 0.9
    assert 0.5 < read.metrics["frozen.accuracy"] < read.metrics["valid.accuracy"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(project: Path, run: Path, tmp_path: Path) -> None:
    first = torch.load(run / "checkpoint.pt", weights_only=True)
    train_run(project, tmp_path / "same")
    train_run(project, tmp_path / "other", seed=1)
    same = torch.load(tmp_path / "same" / "checkpoint.pt", weights_only=True)
    other = torch.load(tmp_path / "other" / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert read_run(run).config.data_digest == read_run(tmp_path / "same").config.data_digest


def test_retraining_on_returned_features_helps_and_keeps_the_features_graph(
    project: Path, compiled: Compiled, tmp_path: Path
) -> None:
    returned = returned_from(project, compiled.folder)
    key = "datasets/watch/000001.json"
    config = retrain_run(project, tmp_path / "run", compiled.folder, returned, dataset_key=key)
    challenger = compile_run(tmp_path / "run", tmp_path / "package", "1.0.1")
    assert (tmp_path / "package" / "features.onnx").read_bytes() == (compiled.folder / "features.onnx").read_bytes()
    assert challenger.manifest.features_digest == compiled.manifest.features_digest == config.features_digest
    assert challenger.manifest.lineage.parent == compiled.manifest.digest
    assert challenger.manifest.lineage.dataset == key
    task = load_project(project).task()
    frozen = task.dataset(0).frozen
    before = evaluate_package(compiled.folder, frozen.inputs, frozen.labels, task)
    after = evaluate_package(tmp_path / "package", frozen.inputs, frozen.labels, task)
    assert after.metrics["accuracy"] > before.metrics["accuracy"] + 0.03
    assert after.correct.mean() == after.metrics["accuracy"]
    assert after.outputs["probabilities"].shape == (len(frozen), 7)


def test_changed_features_start_a_new_generation(own_project: Path, compiled: Compiled, tmp_path: Path) -> None:
    returned = returned_from(own_project, compiled.folder)
    task = own_project / "task.py"
    task.write_text(task.read_text().replace("torch.log(power + 1e-3)", "torch.log(power + 1e-2)"))
    with pytest.raises(Refused, match="start a new generation"):
        retrain_run(own_project, tmp_path / "run", compiled.folder, returned)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("broken", ["shape", "missing", "nan", "label"])
def test_returned_samples_that_do_not_fit_are_refused(
    broken: str, project: Path, compiled: Compiled, tmp_path: Path
) -> None:
    features, labels = np.zeros((4, 162), np.float32), np.zeros(4, np.int64)
    returned = {
        "shape": ReturnedSamples({"features": features[:, :5]}, labels),
        "missing": ReturnedSamples({}, labels),
        "nan": ReturnedSamples({"features": features * np.nan}, labels),
        "label": ReturnedSamples({"features": features}, labels + 7),
    }[broken]
    with pytest.raises(InvalidInput):
        retrain_run(project, tmp_path / "run", compiled.folder, returned)
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_training_is_refused(project: Path) -> None:
    loaded = load_project(project)
    task = loaded.task()
    rows, labels = {"features": np.full((256, 162), 1e38, np.float32)}, np.zeros(256, np.int64)
    with pytest.raises(Refused, match="loss is"):
        train_model(task, rows, labels, rows, labels, loaded.train)


def test_a_run_is_never_overwritten(project: Path, run: Path) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(Conflict, match="is there already"):
        train_run(project, run)
    assert (run / "config.json").read_bytes() == before


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with output_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with output_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_unknown_projects_and_broken_settings_are_one_sentence(
    own_project: Path, tmp_path: Path, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("train", tmp_path / "nowhere", "--out", tmp_path / "run") == 2
    assert "is not a project" in capsys.readouterr().err
    settings = own_project / "project.toml"
    settings.write_text(settings.read_text().replace("batch_size = 128", "batch_size = 0"))
    assert hybridge("train", own_project, "--out", tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "'batch_size' must be a whole number from 2" in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_the_command_trains_and_says_what_it_did(
    project: Path, tmp_path: Path, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("train", project, "--out", tmp_path / "run", "--split", 2, "--seed", 3) == 0
    output = capsys.readouterr()
    assert "frozen" in output.out
    assert "epoch 4 of 4" in output.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["split"], config["train"]["seed"]) == (2, 3)
