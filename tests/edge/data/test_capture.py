"""Capture keeps what the policy says, counts everything, and never keeps a request waiting."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybridge_edge import capture as capture_module
from hybridge_edge.capture import Capture, CapturePolicy, Observation
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.contract.sample import Sample
from hybridge_edge.spool_reader import SpoolReader
from hybridge_edge.spool_writer import SpoolWriter

Observe = Callable[..., Observation]


def samples(folder: Path) -> list[Sample]:
    reader = SpoolReader(folder)
    found = []
    while group := reader.read(1000, 1 << 24):
        found += [Sample.from_bytes(entry.body) for entry in group]
    reader.close()
    return found


def test_the_random_share_is_kept_and_low_confidence_comes_first() -> None:
    policy, rng = CapturePolicy(share=0.1, confidence_below=0.6), random.Random(3)
    reasons = [policy.reason(0.9, rng.random()) for _ in range(20_000)]
    kept = reasons.count("random")
    assert abs(kept - 2000) < 5 * math.sqrt(20_000 * 0.1 * 0.9)
    assert set(reasons) == {"", "random"}
    assert {policy.reason(0.59, rng.random()) for _ in range(1000)} == {"low-confidence"}
    assert policy.reason(math.nan, 0.99) == "low-confidence"
    assert policy.reason(-1.0, 0.99) == ""
    assert CapturePolicy(0.0, 0.0).reason(0.0, 0.0) == ""
    assert CapturePolicy(1.0, 0.0).reason(1.0, 0.999) == "random"


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_outside_zero_to_one_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="captureShare"):
        CapturePolicy(share=share)


def test_what_is_captured_lies_in_the_spool_with_its_reason(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(0.25, 0.6), spool_folder, rng=random.Random(5))
    for number in range(1000):
        capture.offer(observe(number, confidence=0.3 if number % 10 == 0 else 0.9))
    capture.close()
    counters = capture.counters()
    found = samples(spool_folder)
    assert counters.offered == 1000
    assert counters.kept == counters.captured == counters.spool_records == len(found)
    assert counters.dropped == 0
    assert sum(sample.reason == "low-confidence" for sample in found) == 100
    assert sum(sample.reason == "random" for sample in found) == len(found) - 100
    first = found[0]
    assert (first.sample_id, first.model, first.version) == ("person1/0", "watch", "1.0.0")
    assert [tensor.name for tensor in (*first.features, *first.outputs)] == ["features", "probabilities"]


def test_every_number_of_a_sample_survives_the_spool(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    features = {"b": np.arange(6, dtype=">i4").reshape(2, 3)[:, ::-1], "a": np.array([[1.5, math.inf]], np.float16)}
    capture.offer(observe(features=features, outputs={"flag": np.array(True)}, confidence=math.nan))
    capture.close()
    (sample,) = samples(spool_folder)
    assert [(t.name, t.datatype, t.shape) for t in sample.features] == [("a", "FP16", (1, 2)), ("b", "INT32", (2, 3))]
    assert np.frombuffer(sample.features[1].data, "<i4").tolist() == [2, 1, 0, 5, 4, 3]
    assert sample.outputs[0].data == b"\x01"
    assert sample.confidence == -1.0


def test_a_sample_that_does_not_fit_the_contract_is_counted_and_the_others_are_kept(
    spool_folder: Path, observe: Observe
) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    capture.offer(observe(1))
    capture.offer(observe(2, features={"text": np.array(["no number"])}))
    capture.offer(observe(3))
    capture.close()
    counters = capture.counters()
    assert (counters.kept, counters.captured, counters.dropped_invalid) == (3, 2, 1)
    assert len(samples(spool_folder)) == 2


def test_a_full_spool_costs_counted_samples_and_no_request(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder, spool_limit_bytes=20_000)
    for number in range(200):
        capture.offer(observe(number))
    capture.close()
    counters = capture.counters()
    assert counters.dropped_spool_full > 0
    assert counters.captured + counters.dropped_spool_full == counters.kept == 200
    assert "of 20000 bytes" in counters.error
    assert len(samples(spool_folder)) == counters.captured


def test_a_spool_that_cannot_be_opened_costs_counted_samples_and_no_request(tmp_path: Path, observe: Observe) -> None:
    (tmp_path / "file").write_text("in the way")
    capture = Capture(CapturePolicy(1.0, 0.0), tmp_path / "file" / "spool")
    capture.offer(observe(1))
    capture.close()
    counters = capture.counters()
    assert (counters.kept, counters.captured, counters.dropped_spool_failed) == (1, 0, 1)
    assert counters.error


def test_a_second_server_on_one_spool_is_told_who_is_in_the_way(spool_folder: Path, observe: Observe) -> None:
    first = SpoolWriter(spool_folder)
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    capture.offer(observe(1))
    capture.close()
    assert "has a writer already" in capture.counters().error
    first.close()


def test_a_disk_that_stands_still_fills_the_queue_and_never_a_request(
    spool_folder: Path, observe: Observe, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    goes_on = threading.Event()
    real = SpoolWriter.append
    monkeypatch.setattr(SpoolWriter, "append", lambda self, bodies: (goes_on.wait(), real(self, bodies))[1])
    monkeypatch.setattr(capture_module, "QUEUE_OBSERVATIONS", 50)
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    for number in range(500):
        capture.offer(observe(number))
    assert capture.counters().dropped_queue_full >= 500 - 50 - capture_module.GROUP_RECORDS
    goes_on.set()
    capture.close()
    counters = capture.counters()
    assert counters.captured + counters.dropped_queue_full == counters.kept == 500


def test_many_threads_offer_at_once_and_every_sample_is_counted(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(0.5, 0.0), spool_folder, rng=random.Random(1))

    def offer_hundred(base: int) -> None:
        for number in range(100):
            capture.offer(observe(base + number))

    threads = [threading.Thread(target=offer_hundred, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    capture.close()
    counters = capture.counters()
    found = samples(spool_folder)
    assert counters.offered == 400
    assert counters.captured == counters.kept == len({sample.sample_id for sample in found})


def test_it_can_be_switched_off_and_on(spool_folder: Path, observe: Observe) -> None:
    capture = Capture(CapturePolicy(1.0, 0.0), spool_folder)
    capture.enable(False)
    capture.offer(observe(1))
    capture.enable(True)
    capture.offer(observe(2))
    capture.close()
    assert [sample.sample_id for sample in samples(spool_folder)] == ["person1/2"]
