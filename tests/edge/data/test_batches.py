"""A batch is readable with numpy alone, the same from the same records, and never mixes what may not be mixed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hybridge_edge import batches
from hybridge_edge.capture import Observation
from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.names import parse_batch_manifest_key
from hybridge_edge.spool_reader import Entry

Observe = Callable[..., Observation]
EPOCH = "0123456789abcdef"


def entries(*observations: Observation, first: int = 1) -> list[Entry]:
    bodies = [observation.to_sample("random").to_bytes() for observation in observations]
    return [Entry(EPOCH, first + row, body) for row, body in enumerate(bodies)]


def test_a_batch_is_read_with_numpy_alone_and_without_pickle(observe: Observe) -> None:
    made = batches.make("device-1", entries(*(observe(n, confidence=n / 10) for n in range(5)), first=40))
    (batch,) = made.batches
    arrays = np.load(io.BytesIO(batch.data), allow_pickle=False)
    assert arrays["sample_id"].tolist() == [f"person1/{n}" for n in range(5)]
    assert arrays["seq"].tolist() == [40, 41, 42, 43, 44]
    assert arrays["confidence"].dtype == np.float32
    assert arrays["features.features"].shape == (5, 16)
    assert arrays["features.features"][3].tolist() == [3.0] * 16
    assert arrays["outputs.probabilities"].shape == (5, 7)
    assert set(arrays["reason"]) == {"random"}
    assert set(arrays["version"]) == {"1.0.0"}


def test_the_manifest_names_its_data_by_content(observe: Observe) -> None:
    (batch,) = batches.make("device-1", entries(observe(1), observe(2, version="2.0.0"))).batches
    manifest = BatchManifest.from_bytes(batch.manifest.to_bytes())
    assert manifest.data_sha256 == "sha256:" + hashlib.sha256(batch.data).hexdigest()
    assert manifest.data_size == len(batch.data)
    assert (manifest.first_seq, manifest.last_seq, manifest.count) == (1, 2, 2)
    assert manifest.versions == ("1.0.0", "2.0.0")
    parsed = parse_batch_manifest_key(batch.manifest_key)
    assert parsed is not None
    assert parsed[:2] == ("device-1", "watch")
    assert manifest.data_key == f"devices/device-1/data/watch/{parsed[2]}.npz"


def test_a_manifest_spans_its_rows_in_whatever_order_they_come(observe: Observe) -> None:
    (batch,) = batches.make("device-1", list(reversed(entries(observe(1), observe(2), observe(3))))).batches
    assert (batch.manifest.first_seq, batch.manifest.last_seq, batch.manifest.count) == (1, 3, 3)


def test_the_same_records_make_the_same_objects(observe: Observe) -> None:
    made = [batches.make("device-1", entries(observe(1), observe(2))).batches[0] for _ in range(2)]
    assert made[0].data == made[1].data
    assert made[0].manifest_key == made[1].manifest_key
    other = batches.make("device-1", entries(observe(1), observe(3))).batches[0]
    assert other.manifest_key != made[0].manifest_key


def test_models_features_and_shapes_are_never_mixed(observe: Observe) -> None:
    wide = {"features": np.zeros(32, np.float32)}
    group = entries(
        observe(1),
        observe(2, model="other"),
        observe(3, features_digest="sha256:" + "c" * 64),
        observe(4, features=wide),
        observe(5),
    )
    group.append(replace(group[0], epoch="fedcba9876543210"))
    made = batches.make("device-1", group)
    assert sorted(batch.manifest.count for batch in made.batches) == [1, 1, 1, 1, 2]
    assert len({batch.manifest_key for batch in made.batches}) == 5


def test_a_record_that_is_no_sample_is_set_apart(observe: Observe) -> None:
    good = entries(observe(1))
    bad = Entry(EPOCH, 2, b"no sample")
    made = batches.make("device-1", [*good, bad])
    assert made.unreadable == (bad,)
    assert [batch.manifest.count for batch in made.batches] == [1]
    assert batches.make("device-1", []).batches == ()
