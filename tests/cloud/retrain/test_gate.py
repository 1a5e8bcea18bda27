"""F13 and S14c: whatever becomes of events and gates, each dataset takes effect once and no batch is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hybridge_cloud.aws import pipeline as codepipeline
from hybridge_cloud.aws.queue import Queue
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.data import label_rule, labels, quarantine
from hybridge_cloud.data.dataset import DatasetShelf
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_cloud.retrain import claim
from hybridge_cloud.retrain.arrivals import Arrivals
from hybridge_cloud.retrain.claim import DATASET_VARIABLE, Duplicate, Starter
from hybridge_cloud.retrain.decision import Policy
from hybridge_cloud.retrain.gate import Gate
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError

POLICY = Policy(minimum_samples=40, minimum_labelled_share=0.0, minimum_interval_seconds=0, device_share=1.0)
NOW_MS = 1_700_000_000_000
MakeDevice = Callable[..., object]
EFFECTS = 8
"""Before and after each of: the dataset's put, the intent's put, the start, the execution id put; then it lives."""
GATE_PROGRAM = Path(__file__).with_name("gate_that_dies.py")


@pytest.fixture
def pipeline(bucket: Bucket, model: str) -> str:
    """A pipeline whose builds do nothing: what is tested is who starts it, and how often."""
    source = f"projects/{model}/source.zip"
    bucket.put(source, b"PK\x05\x06" + bytes(18))
    nothing = codepipeline.Stage("nothing", "nothing", {})
    role = codepipeline.account_role("hybridge")
    declared = codepipeline.Pipeline(model, role, bucket.name, source, (DATASET_VARIABLE,), (nothing,))
    assert codepipeline.create_or_update(declared)
    assert not codepipeline.create_or_update(declared)
    return model


@pytest.fixture
def queue(sandbox: object) -> Queue:
    """A queue of this test alone; the sandbox's own, which the rule fills, has a test of its own."""
    from hybridge_cloud.aws.session import call

    name = f"events-{uuid.uuid4().hex[:12]}"
    call("sqs", "create_queue", QueueName=name, Attributes={"VisibilityTimeout": "1"})
    return Queue(name)


def event(bucket: Bucket, key: str) -> str:
    detail = {"bucket": {"name": bucket.name}, "object": {"key": key}}
    return json.dumps({"source": "aws.s3", "detail-type": "Object Created", "detail": detail})


def gate(bucket: Bucket, queue: Queue, pipeline: str, **starter: float) -> Gate:
    made = Starter(bucket, pipeline, f"gate-{uuid.uuid4()}", lambda: NOW_MS, **starter)
    return Gate(bucket, queue, pipeline, POLICY, made, lambda _: None)


def starts(pipeline: str) -> Counter[str]:
    """Executions per dataset, as CodePipeline knows them."""
    return Counter(found.variables[DATASET_VARIABLE] for found in codepipeline.executions(pipeline, 1000))


def check_everything_once(bucket: Bucket, pipeline: str, keys: list[str]) -> None:
    """Every batch stands in exactly one dataset, and each dataset was started exactly once."""
    datasets = DatasetShelf(bucket, pipeline).refresh()
    held = Counter(entry.key for dataset in datasets for entry in dataset.batches)
    assert held == Counter(keys)
    assert [dataset.number for dataset in datasets] == list(range(1, len(datasets) + 1))
    assert starts(pipeline) == Counter(dataset.key for dataset in datasets)


def test_the_bucket_s_own_events_reach_the_gate(
    bucket: Bucket, pipeline: str, device: Callable[..., object], sandbox: object
) -> None:
    keys = [device("real", pipeline).batch(first, 20) for first in (0, 20)]  # type: ignore[attr-defined]
    stop = threading.Event()
    timer = threading.Timer(30, stop.set)
    timer.start()
    try:
        # Never sweeps after its start, on an empty shelf: what it finds it was told.
        watching = gate(bucket, Queue("hybridge-batches"), pipeline)
        watching.sweep = lambda: None  # type: ignore[method-assign]
        assert watching.run(stop, until_started=True)
    finally:
        timer.cancel()
    check_everything_once(bucket, pipeline, keys)


@pytest.mark.parametrize("seed", [1, 2])
def test_lost_repeated_and_shuffled_events_with_two_gates_start_each_dataset_once(
    seed: int, bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    generator = random.Random(seed)
    keys = [
        device(f"t{index % 3}", pipeline).batch(20 * index, 20)  # type: ignore[attr-defined]
        for index in range(12)
    ]
    deliveries = [key for key in keys for _ in range(generator.randint(0, 5))]
    generator.shuffle(deliveries)
    failures: list[BaseException] = []

    def run(own: Gate) -> None:
        try:
            for _ in range(2):
                own.take_events(1)
                own.turn()
        except BaseException as error:
            failures.append(error)

    gates = [gate(bucket, queue, pipeline) for _ in range(2)]
    threads = [threading.Thread(target=run, args=(own,)) for own in gates]
    for thread in threads:
        thread.start()
    for key in deliveries:
        queue.send(event(bucket, key))
    for thread in threads:
        thread.join()
    assert not failures
    # The sweep finds what no event named; with enough left over it makes one more dataset.
    last = gate(bucket, queue, pipeline)
    last.sweep()
    last.turn()
    left = [arrival.entry.key for arrival in last.arrivals.all()]
    assert len(left) < 2, "fewer than the 40 samples a dataset needs may wait"
    check_everything_once(bucket, pipeline, sorted(set(keys) - set(left)))


@pytest.mark.parametrize("effect", range(EFFECTS + 1))
def test_a_gate_killed_at_any_effect_leaves_what_the_next_one_finishes_once(
    effect: int, bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    keys = [device("t", pipeline).batch(first, 20) for first in (0, 20)]  # type: ignore[attr-defined]
    died = subprocess.run(
        [sys.executable, str(GATE_PROGRAM), pipeline, queue.name, str(effect)], env=dict(os.environ), timeout=60
    )
    assert died.returncode == (-signal.SIGKILL if effect < EFFECTS else 0)
    after = gate(bucket, queue, pipeline, lease_seconds=-1)
    after.sweep()
    after.turn()
    after.turn()
    check_everything_once(bucket, pipeline, keys)


def test_a_naive_gate_starts_twice_and_is_found_out(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    keys = [device("t", pipeline).batch(0, 40)]  # type: ignore[attr-defined]
    honest = gate(bucket, queue, pipeline)
    honest.sweep()
    honest.turn()
    check_everything_once(bucket, pipeline, keys)
    # What a gate does that trusts events to come once:
    for key in keys:
        assert names.parse_batch_manifest_key(key)
        codepipeline.start(pipeline, {DATASET_VARIABLE: names.dataset_key(pipeline, 1)})
    with pytest.raises(AssertionError):
        check_everything_once(bucket, pipeline, keys)
    # And what makes even that harmless: the second execution to claim the dataset ends.
    first, second = (found.execution_id for found in codepipeline.executions(pipeline, 2))
    dataset = names.dataset_key(pipeline, 1)
    claim.claim(bucket, dataset, first)
    claim.claim(bucket, dataset, first)
    with pytest.raises(Duplicate, match="DUPLICATE"):
        claim.claim(bucket, dataset, second)
    assert claim.claimed_by(bucket, dataset) == first
    assert claim.duplicates(bucket, dataset) == 1


def test_a_slow_starter_and_the_one_that_took_over_start_twice_and_the_claim_lets_one_work(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    device("t", pipeline).batch(0, 40)  # type: ignore[attr-defined]
    dataset = names.dataset_key(pipeline, 1)
    real = codepipeline.start

    def slow(name: str, variables: dict[str, str]) -> str:
        monkeypatch.setattr(codepipeline, "start", real)
        other = Starter(bucket, pipeline, "other", lambda: NOW_MS, lease_seconds=-1)
        other.start(dataset)
        return real(name, variables)

    monkeypatch.setattr(codepipeline, "start", slow)
    own = gate(bucket, queue, pipeline)
    own.sweep()
    own.turn()
    assert starts(pipeline) == {dataset: 2}
    ended = 0
    for found in codepipeline.executions(pipeline, 10):
        try:
            claim.claim(bucket, dataset, found.execution_id)
        except Duplicate:
            ended += 1
    assert ended == 1 == claim.duplicates(bucket, dataset)


def test_a_sample_that_is_sent_again_in_another_batch_counts_once_also_after_its_dataset(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    made = device("t", pipeline)
    for first, count in ((0, 30), (20, 30)):
        made.batch(first, count)  # type: ignore[attr-defined]
    own = gate(bucket, queue, pipeline)
    own.sweep()
    own.turn()
    (dataset,) = DatasetShelf(bucket, pipeline).refresh()
    assert (dataset.counts.samples, dataset.counts.duplicates) == (50, 10)
    made.batch(10, 39)  # type: ignore[attr-defined]
    own.sweep()
    turn = own.turn()
    assert not turn.started
    assert turn.decisions[0].reason == "No new samples."


def test_a_device_that_sends_without_end_crowds_out_nobody_else(
    bucket: Bucket, pipeline: str, device: Callable[..., object]
) -> None:
    for first in range(0, 60, 10):
        device("flood", pipeline).batch(first, 10)  # type: ignore[attr-defined]
    others = [device(f"quiet-{number}", pipeline).batch(0, 10) for number in range(2)]  # type: ignore[attr-defined]
    arrivals = Arrivals(bucket, pipeline, limit=4)
    for _ in range(2):
        arrivals.sweep()
        held = [arrival.entry.key for arrival in arrivals.all()]
        assert len(held) == 4
        assert set(others) < set(held)


def test_batches_of_two_features_digests_never_share_a_dataset(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    old, new = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    for digest in (old, new):
        for first in (0, 20):
            device(f"t-{digest[7]}", pipeline, features_digest=digest).batch(first, 20)  # type: ignore[attr-defined]
    own = gate(bucket, queue, pipeline)
    own.sweep()
    own.turn()
    found = DatasetShelf(bucket, pipeline).refresh()
    assert [(dataset.features_digest, dataset.previous) for dataset in found] == [(old, 0), (new, 0)]
    for dataset in found:
        assert all(dataset.features_digest[7] in entry.thing for entry in dataset.batches)


def test_labels_are_joined_by_sample_id_and_a_dataset_names_them(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    device("t", pipeline).batch(0, 40)  # type: ignore[attr-defined]
    wanting = Gate(
        bucket,
        queue,
        pipeline,
        Policy(minimum_samples=40, minimum_labelled_share=0.5, minimum_interval_seconds=0, device_share=1.0),
        Starter(bucket, pipeline, "g", lambda: NOW_MS),
        lambda _: None,
    )
    wanting.sweep()
    assert "0.0% of the new samples are labelled" in wanting.turn().decisions[0].reason
    entry, new = labels.store(bucket, pipeline, [Label(f"t/e1/{seq}", "a", "people") for seq in range(20)], NOW_MS)
    assert new
    assert wanting.turn().decisions[0].train
    (dataset,) = DatasetShelf(bucket, pipeline).refresh()
    assert (dataset.labels, dataset.rule) == ((entry,), LabelRule())
    assert dataset.counts.labelled == 20


@pytest.mark.parametrize("labels_first", [True, False])
def test_a_dataset_is_the_same_whether_labels_or_samples_came_first(
    labels_first: bool, bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    rule = LabelRule(20, ("expert",))
    label_rule.declare(bucket, pipeline, rule)
    found = [Label(f"t/e1/{n}", "walk", "x", 1.0, NOW_MS + n * 24 * 3600 * 1000) for n in range(40)]
    if labels_first:
        labels.store(bucket, pipeline, found, NOW_MS)
    captured = {"captured_at_ms": np.full(40, NOW_MS, np.int64)}
    keys = [device("t", pipeline).batch(0, 40, arrays=captured)]  # type: ignore[attr-defined]
    said: list[str] = []
    policy = replace(POLICY, minimum_labelled_share=0.5)
    own = Gate(bucket, queue, pipeline, policy, Starter(bucket, pipeline, "g", lambda: NOW_MS), said.append)
    own.sweep()
    if not labels_first:
        assert not own.turn().started
        labels.store(bucket, pipeline, found, NOW_MS)
    own.turn()
    check_everything_once(bucket, pipeline, keys)
    (dataset,) = DatasetShelf(bucket, pipeline).refresh()
    assert dataset.rule == rule
    assert (dataset.counts.labelled, dataset.counts.joined.late) == (21, 19)
    assert any("19 late labels" in sentence for sentence in said)


def test_a_refused_batch_is_quarantined_and_the_rest_goes_on(
    bucket: Bucket, pipeline: str, queue: Queue, device: Callable[..., object]
) -> None:
    good = device("t", pipeline).batch(0, 40)  # type: ignore[attr-defined]
    bad = device("t", pipeline).batch(40, 20, data=b"not an npz")  # type: ignore[attr-defined]
    said: list[str] = []
    own = Gate(bucket, queue, pipeline, POLICY, Starter(bucket, pipeline, "g", lambda: NOW_MS), said.append)
    for _ in range(3):
        queue.send(event(bucket, bad))
    queue.send(event(bucket, good))
    queue.send("not an event")
    own.take_events(1)
    own.turn()
    check_everything_once(bucket, pipeline, [good])
    assert [entry.key for entry in quarantine.list_all(bucket, pipeline)] == [bad]
    assert sum("Quarantined" in sentence for sentence in said) == 1


def test_another_models_batch_is_left_in_the_queue(bucket: Bucket, pipeline: str, queue: Queue) -> None:
    queue.send(event(bucket, "devices/t/batches/other/x.json"))
    own = gate(bucket, queue, pipeline)
    assert own.take_events(1) == 0
    from hybridge_cloud.aws.session import call

    url = call("sqs", "get_queue_url", QueueName=queue.name)["QueueUrl"]
    call("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "0"})
    assert queue.receive(5)


def test_a_missing_queue_is_one_sentence(bucket: Bucket, pipeline: str) -> None:
    with pytest.raises(HybridgeError, match="sqs GetQueueUrl"):
        gate(bucket, Queue("no-such-queue"), pipeline).take_events(0)
