"""Labels that came before, with or long after their samples: what counts, what a dataset pins, what status says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from labelled import DAY, NOW, ROOT, RULE, at, known, objects, said_on

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.data import label_rule, labels
from hybridge_cloud.data.batches import read_batch
from hybridge_cloud.data.dataset import BatchEntry, Dataset, DatasetCounts, DatasetShelf
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_import import take_returned
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_cloud.data.label_status import label_status
from hybridge_cloud.data.labels import LabelEntry, LabelShelf
from hybridge_cloud.retrain.material import gather
from hybridge_cloud.training.project import load_project
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, sha256
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, Refused
from hybridge_edge.contract.manifest import Manifest


@pytest.mark.parametrize("which", ["part", "manifest"])
def test_labels_that_were_altered_in_the_bucket_are_refused(which: str, bucket: Bucket, model: str) -> None:
    entry, _ = labels.store(bucket, model, [Label("r/1", "walk", "people")], NOW)
    (part,) = (key for key, _, _ in objects(bucket, model) if "/data/" in key)
    if which == "part":
        bucket.put(part, bucket.get(part).replace(b"walk", b"jump"))
    else:
        bucket.put(entry.key, bucket.get(entry.key).replace(str(NOW).encode(), str(NOW + 1).encode()))
    with pytest.raises(Refused, match="altered"):
        tuple(labels.load(bucket, [entry]))


def test_status_counts_what_met_what_waits_and_what_was_left_out(
    bucket: Bucket,
    model: str,
    device: Callable[..., Any],
    hybridge: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert hybridge("labels", "status", "--model", model) == 0
    assert "0 samples: 0 labelled, 0 not." in capsys.readouterr().out
    label_rule.declare(bucket, model, LabelRule(10, ("expert",), 0.4))
    device("left", model).batch(0, 8, arrays=at(0, 8, NOW))
    sample = "left/e1/{}".format
    labels.store(
        bucket,
        model,
        [
            Label(sample(0), "walk", "expert", 1.0, NOW),
            Label(sample(1), "walk", "expert", 1.0, NOW),
            Label(sample(1), "run", "somebody", 1.0, NOW),
            Label(sample(2), "walk", "x", 1.0, NOW),
            Label(sample(2), "run", "y", 1.0, NOW),
            Label(sample(3), "walk", "x", 1.0, NOW + 11 * DAY),
            Label(sample(4), "walk", "x", 0.3, NOW),
            Label(sample(5), "walk", "x", 1.0, NOW),
            Label("never/1", "walk", "x", 1.0, NOW),
            Label("never/2", "walk", "x", 1.0, NOW + 9 * DAY),
        ],
        NOW,
    )
    said_on(bucket, "right", model, "e1-1", (sample(6), "run"))
    take_returned(bucket, model, NOW)
    found = label_status(bucket, model, NOW + 11 * DAY)
    joined = found.joined
    assert (found.labels, found.imports, found.waiting, found.expired, found.changed) == (11, 2, 2, 1, 0)
    assert (joined.samples, joined.labelled, joined.unlabelled) == (8, 3, 5)
    assert (joined.late, joined.unsure, joined.foreign, joined.disagreeing, joined.conflicts) == (1, 1, 1, 2, 1)
    assert found.by_source == {"expert": 2, "x": 1}
    assert [(item.sample_id, item.counts) for item in found.disagreements] == [(sample(1), "walk"), (sample(2), "")]
    capsys.readouterr()
    assert hybridge("labels", "status", "--model", model) == 0
    said = capsys.readouterr().out
    for words in ("within 10 days", "8 samples: 3 labelled (expert 2, x 1), 5 not", "2 wait for a sample", "1 late",
                  "run by somebody (1), walk by expert (1) -> walk", "-> no label"):  # fmt: skip
        assert words in said
    assert hybridge("labels", "status", "--model", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["joined"]["late"] == 1
    assert hybridge("retrain", "status", "--model", model) == 0
    said = capsys.readouterr().out
    assert "3 labelled (by expert, x)" in said
    assert "1 late labels, 2 samples whose labels disagree" in said


def dataset_of(
    bucket: Bucket, model: str, number: int, batch: str, entries: tuple[LabelEntry, ...], rule: LabelRule = RULE
) -> Dataset:
    """A dataset as a gate writes it, of one batch and these labels, continuing the one before."""
    read = read_batch(bucket, batch)
    digest = read.manifest.features_digest
    counts = DatasetCounts(read.manifest.count, 0, 0, 1)
    dataset = Dataset(model, number, digest, number - 1, (BatchEntry.of(read),), entries, counts, number, rule)
    DatasetShelf(bucket, model).write(dataset)
    return dataset


def test_a_label_that_changed_enters_the_next_dataset_and_the_one_before_stays_what_it_was(
    bucket: Bucket, model: str, champion: Manifest, device: Callable[..., Any]
) -> None:
    made = device("left", model)
    ids = [f"left/e1/{n}" for n in range(8)]
    first, _ = labels.store(bucket, model, [Label(sample, "walk", "people") for sample in ids[:4]], NOW)
    one = dataset_of(bucket, model, 1, made.batch(0, 4, arrays=at(0, 4, NOW)), (first,))
    before = gather(bucket, one, champion, 1.0)
    assert before.counts.by_label == {"walk": 4}
    correction = [Label(ids[0], "run", "people"), *(Label(sample, "run", "people") for sample in ids[4:])]
    second, _ = labels.store(bucket, model, correction, NOW + DAY)
    assert label_status(bucket, model, NOW + DAY).changed == 1
    two = dataset_of(bucket, model, 2, made.batch(4, 4, arrays=at(4, 4, NOW)), (first, second))
    after = gather(bucket, two, champion, 1.0)
    assert (after.counts.by_label, after.counts.relabelled) == ({"run": 5, "walk": 3}, 1)
    assert after.labels.tolist() == [1, 0, 0, 0, 1, 1, 1, 1]
    assert label_status(bucket, model, NOW + DAY).changed == 0
    # The first dataset names its labels for good: nothing that came later changes what it trains on.
    again = gather(bucket, one, champion, 1.0)
    assert (again.labels.tolist(), again.counts) == (before.labels.tolist(), before.counts)
    assert one.labels_digest != two.labels_digest
    assert Dataset.from_bytes(two.to_bytes()) == two
    with pytest.raises(InvalidDocument, match="does not hold what it says"):
        Dataset.from_bytes(two.to_bytes().replace(b'"window_days":30.0', b'"window_days":31.0'))
    (part,) = (key for key, _, _ in objects(bucket, model) if "/data/" in key and b"run" in bucket.get(key))
    bucket.put(part, bucket.get(part).replace(b'"run"', b'"walk"'))
    with pytest.raises(Refused, match="altered"):
        gather(bucket, two, champion, 1.0)


def test_late_unsure_and_foreign_labels_are_not_trained_on_and_counted(
    bucket: Bucket, model: str, champion: Manifest, device: Callable[..., Any]
) -> None:
    """S14: a device's words count for its own samples alone, and its share stays capped whoever labels them."""
    things = ("flood", "quiet-1", "quiet-2")
    batches = [
        device(thing, model).batch(0, count, arrays=at(0, count, NOW))
        for thing, count in zip(things, (40, 10, 10), strict=True)
    ]
    said_on(bucket, "flood", model, "e1-1", *((f"flood/e1/{n}", "run") for n in range(40)))
    said_on(bucket, "flood", model, "e1-2", *((f"quiet-1/e1/{n}", "run") for n in range(10)))
    take_returned(bucket, model, NOW)
    quiet = [Label(f"{thing}/e1/{n}", "walk", "people", 1.0, NOW) for thing in things[1:] for n in range(8)]
    late = Label("quiet-1/e1/8", "run", "people", 1.0, NOW + 31 * DAY)
    unsure = Label("quiet-1/e1/9", "run", "people", 0.1, NOW)
    labels.store(bucket, model, [*quiet, late, unsure], NOW)
    shelf = LabelShelf(bucket, model)
    rule = LabelRule(minimum_confidence=0.2)
    shelf.refresh(rule)
    read = [read_batch(bucket, key) for key in batches]
    entries = tuple(BatchEntry.of(batch) for batch in read)
    counts = DatasetCounts(60, 0, 0, 3)
    dataset = Dataset(model, 1, champion.features_digest, 0, entries, shelf.entries, counts, 1, rule)
    found = gather(bucket, dataset, champion, 0.4).counts
    assert (found.joined.late, found.joined.unsure, found.joined.foreign) == (1, 1, 10)
    assert (found.labelled, found.unlabelled) == (56, 4)
    assert found.by_device == {"flood": 10, "quiet-1": 8, "quiet-2": 8}
    assert found.by_label == {"run": 10, "walk": 16}


def test_labels_and_datasets_from_before_there_were_manifests_are_still_read(bucket: Bucket, model: str) -> None:
    line = canonical({"sample_id": "r/1", "label": "walk", "source": "people", "confidence": 0.5})
    key = f"{names.labels_prefix(model)}{sha256(line).removeprefix('sha256:')}.jsonl"
    bucket.put(key, line)
    assert known(bucket, model) == {Label("r/1", "walk", "people", 0.5)}
    entry = BatchEntry("k", "sha256:" + "1" * 64, "t", "e", 0, 0, 1)
    now = Dataset(model, 1, "sha256:" + "0" * 64, 0, (entry,), (LabelEntry.old(key),), DatasetCounts(1, 0, 1, 1), 1)
    fields = json.loads(now.to_bytes())
    del fields["rule"], fields["labels_digest"], fields["counts"]["joined"]
    fields |= {"format": 1, "labels": [key]}
    old = Dataset.from_bytes(canonical(fields))
    assert old == now
    assert [label.label for label in labels.load(bucket, old.labels)] == ["walk"]


def test_the_rule_is_declared_in_the_project(tmp_path: Path, bucket: Bucket, model: str) -> None:
    text = (ROOT / "examples" / "watch" / "project.toml").read_text()
    (tmp_path / "project.toml").write_text(text.partition("[labels]")[0])
    assert load_project(tmp_path).labels == LabelRule()
    said = '\n[labels]\nwindow_days = 7\nsource_priority = ["expert", "crowd"]\nminimum_confidence = 0.5\n'
    (tmp_path / "project.toml").write_text(text.partition("[labels]")[0] + said)
    rule = load_project(tmp_path).labels
    assert rule == LabelRule(7, ("expert", "crowd"), 0.5)
    assert label_rule.declared(bucket, model) == LabelRule()
    label_rule.declare(bucket, model, rule)
    assert label_rule.declared(bucket, model) == rule
    for wrong in ("window_days = -1", "window = 3", 'source_priority = "expert"'):
        (tmp_path / "project.toml").write_text(text.partition("[labels]")[0] + f"\n[labels]\n{wrong}\n")
        with pytest.raises(HybridgeError):
            load_project(tmp_path)
