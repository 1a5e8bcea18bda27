"""The example: its data, its cuts, its size."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.task import Dataset, Samples
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused, UsageError

SPLITS = range(5)


@pytest.fixture(scope="module", params=SPLITS)
def dataset(watch: Path, request: pytest.FixtureRequest) -> Dataset:
    return load_project(watch).task().dataset(request.param)


def spans(samples: Samples) -> dict[str, tuple[int, int]]:
    """First and last step that any window of a recording covers."""
    starts: dict[str, list[int]] = {}
    for name in samples.ids:
        recording, _, start = str(name).rpartition("/")
        starts.setdefault(recording, []).append(int(start))
    return {recording: (min(found), max(found) + 200) for recording, found in starts.items()}


def test_a_task_is_under_120_lines(watch: Path) -> None:
    assert len((watch / "task.py").read_text().splitlines()) < 120


def test_no_window_crosses_from_the_replayed_part_into_the_frozen_slice(dataset: Dataset) -> None:
    assert dataset.replay is not None
    replayed, frozen = spans(dataset.replay), spans(dataset.frozen)
    assert replayed.keys() == frozen.keys()
    assert all(replayed[recording][1] <= frozen[recording][0] for recording in frozen)


def test_known_and_new_people_share_no_recording(dataset: Dataset) -> None:
    assert dataset.replay is not None
    known = set(dataset.train.groups) | set(dataset.valid.groups)
    assert not known & (set(dataset.replay.groups) | set(dataset.frozen.groups))
    assert all(spans(dataset.train)[name][1] <= spans(dataset.valid)[name][0] for name in spans(dataset.valid))


def test_sample_ids_are_unique_and_name_their_window(dataset: Dataset, watch: Path) -> None:
    assert dataset.replay is not None
    ids = [names.sample_id(str(name)) for part in (dataset.replay, dataset.frozen) for name in part.ids]
    assert len(set(ids)) == len(ids)
    again = load_project(watch).task().dataset(0).frozen
    assert again.ids[0] in load_project(watch).task().dataset(0).frozen.ids
    assert again.inputs["window"].shape == (len(again), 200, 6)


def test_a_split_that_does_not_exist_is_refused(watch: Path) -> None:
    with pytest.raises(UsageError, match=r"Split 5 does not exist\. Choose one of 0 to 4"):
        load_project(watch).task().dataset(5)


def test_missing_recordings_are_one_sentence(watch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"not installed .* pip install --no-deps seglearn==1\.2\.5"):
        load_project(watch).task().dataset(0)
    assert not any(tmp_path.iterdir())


class Exploding:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_foreign_file_is_never_unpickled(watch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, content = tmp_path / "mark", tmp_path / "seglearn" / "data" / "watch_dataset.npy"
    content.parent.mkdir(parents=True)
    (tmp_path / "seglearn" / "__init__.py").write_text("")
    np.save(content, np.array(Exploding(mark), dtype=object), allow_pickle=True)
    pickle.loads(pickle.dumps(Exploding(mark)))
    assert mark.exists(), "the file must be able to do harm, or this test shows nothing"
    mark.unlink()
    monkeypatch.setenv("HYBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match="SHA-256 differs"):
        load_project(watch).task().dataset(0)
    assert not mark.exists()


def test_a_damaged_cache_is_made_again(watch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDGE_CACHE", str(tmp_path))
    before = load_project(watch).task().dataset(0).frozen
    (cached,) = tmp_path.iterdir()
    cached.write_bytes(cached.read_bytes()[:1000])
    after = load_project(watch).task().dataset(0).frozen
    np.testing.assert_array_equal(before.inputs["window"], after.inputs["window"])


def test_the_committed_benchmark_is_what_the_readme_says_and_captures_as_a_device_does(watch: Path) -> None:
    root = watch.parents[1]
    result = json.loads((root / "benchmarks" / "results" / "splits.json").read_text())
    assert [split["split"] for split in result["splits"]] == list(range(len(load_splits(watch))))
    readme = (watch / "README.md").read_text()
    for split in result["splits"]:
        row = [split[name] for name in ("accuracy_before", "accuracy_after_captured", "accuracy_after_all")]
        assert f"| {split['split']} | " + " | ".join(f"{value:.3f}" for value in row) + " |" in readme
    recipe = yaml.safe_load((root / "recipes" / "InferenceServer.yaml").read_text())
    defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    assert result["capture"] == {
        "share": float(defaults["captureShare"]),
        "confidence_below": float(defaults["captureConfidenceBelow"]),
    }


def load_splits(watch: Path) -> list[object]:
    found: list[object] = json.loads((watch / "splits.json").read_text())
    return found
