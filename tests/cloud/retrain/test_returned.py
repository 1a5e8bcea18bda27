"""S8b, S14: what devices return is read without being believed, and counted once."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.data.batches import BatchRefused, read_batch
from hybridge_cloud.data.dataset import BatchEntry, Dataset, DatasetCounts, contents
from hybridge_cloud.data.returned import combine
from hybridge_edge import batches as edge_batches
from hybridge_edge.contract.errors import InvalidDocument, Refused
from hybridge_edge.contract.sample import Sample
from hybridge_edge.contract.tensors import Tensor
from hybridge_edge.spool_reader import Entry

DIGEST = "sha256:" + "0" * 64


class Evil:
    """Pickled, it would create a file when unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.path),))


def test_an_intact_batch_reads_as_it_was_written(bucket: Bucket, device: Callable[..., Any]) -> None:
    batch = read_batch(bucket, device("t", "read").batch(5, 3))
    assert batch.sample_ids.tolist() == ["t/e1/5", "t/e1/6", "t/e1/7"]
    assert batch.seqs.tolist() == [5, 6, 7]
    assert batch.features["features"].tolist() == [[5.0] * 4, [6.0] * 4, [7.0] * 4]


def test_what_the_uplink_makes_of_samples_is_read_back_the_same(bucket: Bucket) -> None:
    def sample(number: int) -> Sample:
        features = Tensor("features", "FP32", (2,), np.array([number, 0.5], "<f4").tobytes())
        outputs = Tensor("probabilities", "FP32", (2,), np.array([0.25, 0.75], "<f4").tobytes())
        return Sample(f"s/{number}", "uplink", "1.0.0", DIGEST, DIGEST, number, "random", 0.75, (features,), (outputs,))

    entries = [Entry("epoch", seq, sample(seq).to_bytes()) for seq in (3, 4, 7)]
    (made,) = edge_batches.make("thing", entries).batches
    bucket.put(made.manifest.data_key, made.data)
    bucket.put(made.manifest_key, made.manifest.to_bytes())
    batch = read_batch(bucket, made.manifest_key)
    assert batch.sample_ids.tolist() == ["s/3", "s/4", "s/7"]
    assert batch.seqs.tolist() == [3, 4, 7]
    assert batch.features["features"].tolist() == [[3.0, 0.5], [4.0, 0.5], [7.0, 0.5]]
    assert batch.outputs["probabilities"].dtype == np.float32


def test_a_pickled_array_is_refused_and_never_runs(bucket: Bucket, device: Callable[..., Any], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = np.array([Evil(str(mark))] * 3, dtype=object)
    key = device("t", "pickle").batch(0, 3, arrays={"features.features": evil})
    with pytest.raises(BatchRefused, match="objects"):
        read_batch(bucket, key)
    assert not mark.exists()
    data = bucket.get(key.replace("/batches/", "/data/").replace(".json", ".npz"))
    with np.load(io.BytesIO(data), allow_pickle=True) as unpickled:
        assert len(unpickled["features.features"]) == 3
    assert mark.exists(), "the control: a reader that unpickles would have run it"


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ({"arrays": {"features.features": np.full((3, 4), np.nan, np.float32)}}, "not finite"),
        ({"arrays": {"outputs.probabilities": np.full((3, 2), np.inf, np.float32)}}, "not finite"),
        ({"arrays": {"features.features": np.full((3, 4), 1e12, np.float32)}}, "beyond"),
        ({"arrays": {"features.features": np.zeros((2, 4), np.float32)}}, "not 3 rows"),
        ({"arrays": {"features.features": np.array(["a", "b", "c"])}}, "rows of numbers"),
        ({"arrays": {"seq": np.array([0, 0, 2])}}, "repeat"),
        ({"arrays": {"seq": np.array([7, 8, 9])}}, "not the ones"),
        ({"arrays": {"sample_id": np.array(["a", "b", "c d"])}}, "not a valid sample id"),
        ({"arrays": {"confidence": np.zeros(2, np.float32)}}, "'confidence' is missing"),
        ({"arrays": {"version": np.array(["9.0.0"] * 3)}}, "model versions"),
        ({"data": b"PK\x03\x04 and nothing else"}, "another size or digest"),
        ({"fields": {"data_sha256": DIGEST}}, "another size or digest"),
        ({"fields": {"thing": "somebody-else"}}, "speaks for 'somebody-else'"),
        ({"fields": {"data_key": "labels/watch/x.npz"}}, "outside its own place"),
    ],
)
def test_a_batch_that_is_not_what_it_says_is_refused_with_the_reason(
    spoiled: dict[str, Any], said: str, bucket: Bucket, device: Callable[..., Any]
) -> None:
    key = device("t", "spoiled").batch(0, 3, **spoiled) if "data_key" not in spoiled.get("fields", {}) else None
    if key is None:
        made = device("t", "spoiled")
        key = made.batch(0, 3)
        bucket.put(key, bucket.get(key).replace(b"devices/t/data/", b"devices/u/data/"))
    with pytest.raises(BatchRefused, match=said):
        read_batch(bucket, key)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_unpacks_too_large_or_names_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridge_cloud.data import batches

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for _ in range(2):
            archive.writestr("seq.npy", b"")
    with pytest.raises(BatchRefused, match="twice"):
        batches._arrays("key", stream.getvalue())
    monkeypatch.setattr(batches, "MAX_UNPACKED_BYTES", 1024 * 1024)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("seq.npy", bytes(1024 * 1024 + 1))
    assert len(bomb.getvalue()) < 10_000
    with pytest.raises(BatchRefused, match="unpacks to more"):
        batches._arrays("key", bomb.getvalue())


def test_samples_are_counted_once_by_thing_epoch_and_seq_in_any_order(
    bucket: Bucket, device: Callable[..., Any]
) -> None:
    made = [
        device("a", "once").batch(0, 10),
        device("a", "once").batch(5, 10),
        device("a", "once", epoch="e2").batch(0, 10),
        device("b", "once").batch(0, 10),
    ]
    batches = [read_batch(bucket, key) for key in made]
    together, reversed_ = combine(batches), combine(batches[::-1])
    assert (len(together), together.duplicates) == (35, 5)
    assert together.by_thing() == {"a": 25, "b": 10}
    assert together.sample_ids.tolist() == reversed_.sample_ids.tolist()
    assert np.array_equal(together.features["features"], reversed_.features["features"])
    other = read_batch(bucket, device("a", "once", features_digest=DIGEST).batch(100, 1))
    with pytest.raises(Refused, match="2 features digests"):
        combine([*batches, other])


def test_equal_batches_give_equal_contents_and_an_altered_dataset_is_refused() -> None:
    entries = tuple(BatchEntry(f"k{n}", "sha256:" + str(n) * 64, "t", "e", n, n, 1) for n in range(3))
    assert contents(DIGEST, entries) == contents(DIGEST, entries[::-1])
    assert contents(DIGEST, entries) != contents(DIGEST, entries[:2])
    dataset = Dataset("m", 1, DIGEST, 0, entries, (), DatasetCounts(3, 0, 0, 1), 1)
    data = dataset.to_bytes()
    assert Dataset.from_bytes(data) == dataset
    with pytest.raises(InvalidDocument, match="does not hold what it says"):
        Dataset.from_bytes(data.replace(b"1111", b"2222"))
