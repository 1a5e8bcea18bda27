"""What a device measures of a version beside the one before: probes at activation, a share of requests after it."""

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge import trust as trusting
from hybridge_edge.admission.probes import answer_probes
from hybridge_edge.contract.errors import ModelNotFound
from hybridge_edge.contract.report import Evidence
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Arrays, Engine, EngineResult, Stop, load
from hybridge_edge.ledger import NO_ROLLOUT
from hybridge_edge.serving.evidence import comparable
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.live import MAX_WAITING, LiveComparison
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.runner import Runner
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.standing import EVALUATION_SECONDS, under_evaluation

ROWS = 40
SHUFFLED = (1, 2, 0)
PATIENCE_S = 20.0


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


def evidence(device: Any, version: str) -> Evidence:
    found = device.reports()[version].evidence
    assert found is not None
    return found


def test_the_probes_of_a_model_that_agrees_and_of_one_whose_outputs_are_shuffled(
    device: Any, packages: Callable
) -> None:
    one = packages("1.0.0", 1.0, probes=ROWS)
    device.activation.hand_over(one.handover(1))
    assert evidence(device, "1.0.0") == Evidence()
    two = packages("1.1.0", 2.0, probes=ROWS)
    assert device.activation.hand_over(two.handover(2)).state is PackageState.ACTIVE
    same = evidence(device, "1.1.0")
    assert (same.against, same.probes, same.probes_disagreed) == (one.digest, ROWS, 0)
    three = packages("1.2.0", 2.0, order=SHUFFLED, probes=ROWS)
    assert device.activation.hand_over(three.handover(3)).state is PackageState.ACTIVE
    shuffled = evidence(device, "1.2.0")
    assert (shuffled.against, shuffled.probes, shuffled.probes_disagreed) == (two.digest, ROWS, ROWS)


def test_without_probes_or_with_other_inputs_nothing_is_compared_and_nothing_is_refused(
    device: Any, packages: Callable, kit: ModuleType
) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    assert evidence(device, "1.1.0").probes == 0

    def other_unit(manifest: Any) -> Any:
        return replace(manifest, inputs=(TensorSpec("window", "FP32", (-1, kit.STEPS, kit.CHANNELS), "m/s2"),))

    answer = device.activation.hand_over(packages("1.2.0", 2.0, probes=ROWS, change=other_unit).handover(3))
    assert answer.state is PackageState.ACTIVE
    assert evidence(device, "1.2.0").probes == 0


def test_only_answers_that_speak_of_rows_are_compared(packages: Callable) -> None:
    manifest = packages().manifest
    assert comparable(manifest, manifest)
    for outputs in ((TensorSpec("scores", "FP32", (3,)),), (TensorSpec("scores", "FP32", (-1, 4)),)):
        other = replace(manifest, outputs=outputs)
        assert not comparable(manifest, other)
    batchless = replace(manifest, outputs=(TensorSpec("scores", "FP32", (3,)),))
    assert not comparable(batchless, batchless)
    assert not comparable(replace(manifest, confidence_output=""), replace(manifest, confidence_output=""))


def test_probes_that_do_not_fit_are_the_packages_fault(device: Any, packages: Callable, kit: ModuleType) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    built = packages("1.1.0", 2.0, probes=ROWS, change=lambda manifest: wrong_probes(manifest))
    answer = device.activation.hand_over(built.handover(2))
    assert answer.state is PackageState.REFUSED
    assert answer.reason.startswith("probes: The probes do not fit")
    assert device.serves() == ("1.0.0", 1.0)


def wrong_probes(manifest: Any) -> Any:
    """The golden outputs in the place of raw inputs."""
    (probe,) = manifest.probes
    return replace(manifest, probes=(replace(probe, path="golden/scores.npy"),))


class Timed:
    """A real engine that says its runs took what it is told, and remembers whose turn it was."""

    provider = "CPUExecutionProvider"
    degraded = ""

    def __init__(self, inner: Engine, name: str, turns: list[str], took_us: Callable[[int], int]) -> None:
        self.inner, self.name, self.turns, self.took_us = inner, name, turns, took_us
        self.runs = 0

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        self.turns.append(self.name)
        result = self.inner.run(inputs)
        self.runs += 1
        return result._replace(features_us=0, infer_us=self.took_us(self.runs - 2))

    def close(self) -> None:
        self.inner.close()


def alone() -> Runner:
    """Runs for nobody else."""
    return Service(Gate(1), lambda model, digest: None).runner


def test_who_goes_first_alternates_and_a_pair_counts_as_slower_above_the_stated_factor(
    packages: Callable, trust: TrustDocument
) -> None:
    built = packages(probes=10)
    package = trusting.open_package(built.folder, trust)
    turns: list[str] = []
    # The first run of each warms up and is not counted: number -1.
    now = Timed(load(package, 1), "now", turns, lambda row: 151 if 0 <= row < 4 else 150)
    before = Timed(load(package, 1), "before", turns, lambda row: 100)
    residents = [Resident(built.manifest, built.digest, engine) for engine in (now, before)]
    paired = answer_probes(package, *residents, alone(), lambda: False)
    assert (paired.rows, paired.slower, paired.median_us, paired.median_us_before) == (10, 4, 150, 100)
    assert turns == ["now", "before", "before", "now"] * 5 + ["now", "before"]


def test_probing_ends_when_the_server_stops_or_time_is_up(packages: Callable, trust: TrustDocument) -> None:
    built = packages(probes=10)
    package = trusting.open_package(built.folder, trust)
    now, before = (Resident(built.manifest, built.digest, load(package, 1)) for _ in range(2))
    answers = iter([False] * 6 + [True])
    assert answer_probes(package, now, before, alone(), lambda: next(answers)).rows == 5
    assert answer_probes(package, now, before, alone(), lambda: False, seconds=-1.0).rows == 0


def test_a_share_of_requests_is_answered_by_the_version_before_too(
    device: Any, packages: Callable, kit: ModuleType
) -> None:
    device.live_share = 1.0
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.ask(kit.window())
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    for seed in range(5):
        device.ask(kit.window(2, seed=seed))
    wait_for(lambda: evidence(device, "1.1.0").live == 10)
    assert evidence(device, "1.1.0").live_disagreed == 0
    device.activation.hand_over(packages("1.2.0", 2.0, order=SHUFFLED).handover(3))
    for seed in range(5):
        device.ask(kit.window(2, seed=seed))
    wait_for(lambda: evidence(device, "1.2.0").live == 10)
    found = evidence(device, "1.2.0")
    assert (found.live_disagreed, found.requests, found.errors) == (10, 5, 0)
    assert 0 < found.p50_us <= found.p99_us


def test_rows_that_are_no_numbers_agree_with_none(device: Any, packages: Callable, kit: ModuleType) -> None:
    device.live_share = 1.0
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    device.ask(numpy.full_like(kit.window(), numpy.nan))
    wait_for(lambda: evidence(device, "1.1.0").live == 1)
    assert evidence(device, "1.1.0").live_disagreed == 1


class Stuck(Timed):
    """An engine that does not come back until it is let."""

    def __init__(self, inner: Engine) -> None:
        super().__init__(inner, "stuck", [], lambda run: 0)
        self.go = Event()

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        assert self.go.wait(PATIENCE_S)
        return super().run(inputs)


def test_comparisons_are_dropped_before_a_request_waits(device: Any, packages: Callable, kit: ModuleType) -> None:
    device.live_share = 1.0
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    standby = device.service.residents.standby("watch")
    stuck = standby.engine = Stuck(standby.engine)
    for _ in range(MAX_WAITING + 10):
        device.ask(kit.window())
    live = device.service.live
    assert live.dropped >= 9
    stuck.go.set()
    wait_for(lambda: evidence(device, "1.1.0").live + live.dropped == MAX_WAITING + 10)


def test_inputs_that_wait_are_bounded_in_bytes(packages: Callable, trust: TrustDocument, device: Any) -> None:
    built = packages()
    live = LiveComparison(device.service.residents, device.service.runner, 1.0)
    resident = Resident(built.manifest, built.digest, load(trusting.open_package(built.folder, trust), 1))
    resident.begin("sha256:" + "a" * 64, put_back=False)
    large = {"window": numpy.zeros((9, 1024, 1024), numpy.uint8)}
    for _ in range(3):
        live.offer(resident, large, {"scores": numpy.zeros((1, 3))}, 1)
    assert live.dropped == 2


def test_putting_back_is_a_switch_of_what_is_loaded(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0, probes=ROWS), packages("1.1.0", 2.0, probes=ROWS)
    device.activation.hand_over(one.handover(1))
    before = device.service.residents.active("watch")
    device.activation.hand_over(two.handover(2))
    assert device.service.residents.standby("watch") is before
    assert device.serves("1.0.0") == ("1.0.0", 1.0)
    assert device.serves("1.1.0") == ("1.1.0", 2.0)
    assert under_evaluation(device.store, device.service)
    loads = device.loads
    assert device.activation.hand_over(one.handover(3)).state is PackageState.ACTIVE
    assert device.loads == loads
    assert device.service.residents.active("watch") is before
    assert device.reports()["1.0.0"].epoch == 3
    assert not under_evaluation(device.store, device.service)
    with pytest.raises(ModelNotFound, match=r"1\.1\.0"):
        device.serves("1.1.0")
    device.restart()
    assert device.serves() == ("1.0.0", 1.0)
    assert device.store.record("watch").previous is None


def test_a_local_rollback_is_a_switch_of_what_is_loaded(device: Any, packages: Callable) -> None:
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    loads = device.loads
    device.activation.rollback("watch", "too warm")
    assert (device.loads, device.serves()) == (loads, ("1.0.0", 1.0))
    with pytest.raises(ModelNotFound):
        device.serves("1.1.0")


def test_after_a_restart_a_rollouts_evidence_is_measured_again(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0, probes=ROWS), packages("1.1.0", 2.0, order=SHUFFLED, probes=ROWS)
    device.activation.hand_over(one.handover(1))
    device.activation.hand_over(two.handover(2))
    device.restart()
    device.activation.resume()
    wait_for(lambda: evidence(device, "1.1.0").probes == ROWS)
    found = evidence(device, "1.1.0")
    assert (found.against, found.probes_disagreed) == (one.digest, ROWS)
    loads = device.loads
    device.activation.hand_over(one.handover(3))
    assert (device.loads, device.serves()) == (loads, ("1.0.0", 1.0))


def test_a_hand_over_of_no_rollout_is_not_judged(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0, probes=ROWS), packages("1.1.0", 2.0, probes=ROWS)
    device.activation.hand_over(one.handover(1))
    for epoch, rollout in enumerate(sorted(NO_ROLLOUT), start=2):
        device.activation.hand_over(replace(two.handover(epoch), rollout=rollout))
        assert not under_evaluation(device.store, device.service)
    device.restart()
    device.activation.resume()
    device.activation.hand_over(two.handover(epoch))  # waits behind what resume began
    assert device.service.residents.standby("watch") is None


def test_a_rollout_judges_for_hours_after_its_last_hand_over(device: Any, packages: Callable) -> None:
    built = packages()
    device.activation.hand_over(built.handover(1))
    resident = device.service.residents.active("watch")
    assert under_evaluation(device.store, device.service)
    resident.heard -= EVALUATION_SECONDS
    assert not under_evaluation(device.store, device.service)
    device.activation.hand_over(built.handover(2))
    assert under_evaluation(device.store, device.service)


def test_only_two_versions_are_ever_loaded_and_retiring_frees_both(device: Any, packages: Callable) -> None:
    for number in range(4):
        device.activation.hand_over(packages(f"1.{number}.0", 1.0 + number).handover(number + 1))
    assert device.service.residents.versions("watch") == ("1.3.0", "1.2.0")
    with pytest.raises(ModelNotFound):
        device.serves("1.1.0")
    device.activation.hand_over(packages("1.4.0").handover(9, Mode.RETIRE))
    assert device.service.residents.versions("watch") == ()
