"""A shadow answers a share of the inputs too, in lulls, and nobody: who stands there, until when, what is counted."""

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge.contract.errors import DeadlineExceeded, ModelNotFound
from hybridge_edge.contract.expectations import Guard
from hybridge_edge.contract.report import MAX_REPORT_BYTES, DeviceReport, Evidence
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Arrays, Engine, EngineResult, Stop
from hybridge_edge.serving import shadow as shadowing
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.standing import durations, under_evaluation
from hybridge_edge.serving.watchdog import STRIKES, Watchdog

SHUFFLED = (1, 2, 0)
PATIENCE_S = 20.0


def stand(device: Any, packages: Callable, **built: Any) -> tuple[Any, Any]:
    """1.0.0 answers, 1.1.0 stands beside it."""
    one, two = packages("1.0.0", 1.0, probes=8), packages("1.1.0", built.pop("factor", 1.0), probes=8, **built)
    assert device.activation.hand_over(one.handover(1)).state is PackageState.ACTIVE
    answer = device.activation.hand_over(two.handover(2, Mode.SHADOW))
    assert (answer.state, answer.version) == (PackageState.SHADOW, "1.1.0"), answer.reason
    return one, two


def reading(device: Any) -> Any:
    (found,) = device.service.shadowing.readings()
    return found


def asked(device: Any, kit: ModuleType, wait_for: Callable, requests: int = 6, rows: int = 2) -> Any:
    """Ask, and wait until all of it was compared or dropped."""
    before = reading(device).runs + reading(device).failed
    for seed in range(requests):
        device.ask(kit.window(rows, seed=seed))
    wait_for(lambda: reading(device).runs + reading(device).failed == before + requests)
    return reading(device)


def test_a_shadow_is_compared_and_answers_nobody(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    one, two = stand(device, packages, factor=2.0)
    found = asked(device, kit, wait_for)
    device.service.shadowing.share = 0.0
    assert device.serves() == ("1.0.0", 1.0)
    assert (found.version, found.against, found.rows, found.disagreed) == ("1.1.0", one.digest, 12, 0)
    assert (found.timed, found.latency.count, found.first_latency.count) == (3, 6, 3)
    with pytest.raises(ModelNotFound, match=r"1\.1\.0"):
        device.serves("1.1.0")
    assert device.service.residents.versions("watch") == ("1.0.0",)
    report = device.reports()["1.1.0"]
    assert (report.state, report.digest, report.epoch) == (PackageState.SHADOW, two.digest, 2)
    assert report.requests == 0
    assert device.reports()["1.0.0"].requests > 0
    assert report.evidence is not None
    assert (report.evidence.against, report.evidence.live, report.evidence.probes) == (one.digest, 12, 8)
    assert device.states()["1.0.0"] is PackageState.ACTIVE
    assert under_evaluation(device.store, device.service)
    beside = next(item.beside for item in durations(device.store, device.service) if item.beside is not None)
    assert (beside.against, beside.rows, beside.scores.count) == (one.digest, 12, 12)


def test_the_control_a_shadow_that_answers_otherwise_disagrees_and_its_scores_shift(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    stand(device, packages, order=SHUFFLED)
    found = asked(device, kit, wait_for)
    assert (found.rows, found.disagreed) == (12, 12)
    assert found.shift == 0.0  # the largest value stands elsewhere, and is the same
    device.activation.hand_over(packages("1.2.0", 50.0).handover(3, Mode.SHADOW))
    found = asked(device, kit, wait_for)
    assert (found.version, found.disagreed) == ("1.2.0", 0)
    assert found.shift > 0.5
    assert found.evidence().score_shift > 500


def test_what_no_number_is_disagrees_and_a_broken_guard_is_counted(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    def guarded(manifest: Any) -> Any:
        return replace(manifest, guards=(Guard("scores", -0.001, 0.001, "flag"),))

    stand(device, packages, factor=100.0, change=guarded)
    found = asked(device, kit, wait_for)
    assert (found.guarded, found.runs) == (6, 6)
    assert device.service.statistics.read()[0].guarded == 0  # none of it is the active version's
    device.ask(numpy.full_like(kit.window(), numpy.nan))
    wait_for(lambda: reading(device).runs == 7)
    assert reading(device).disagreed == 1


def test_an_activation_of_the_same_digest_is_a_switch_of_what_is_loaded(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    one, two = stand(device, packages, factor=2.0)
    asked(device, kit, wait_for)
    shadow, loads = device.service.residents.shadow("watch"), device.loads
    answer = device.activation.hand_over(two.handover(3))
    assert (answer.state, answer.note) == (PackageState.ACTIVE, "it was resident as a shadow")
    assert device.loads == loads
    assert device.service.residents.active("watch") is shadow
    assert device.service.residents.shadow("watch") is None
    assert device.serves() == ("1.1.0", 2.0)
    evidence = device.reports()["1.1.0"].evidence
    assert evidence is not None
    assert (evidence.against, evidence.probes, evidence.live) == (one.digest, 8, 0)
    device.restart()
    assert device.serves() == ("1.1.0", 2.0)
    assert device.activation.hand_over(one.handover(4)).state is PackageState.ACTIVE
    assert device.serves() == ("1.0.0", 1.0)


def test_a_shadow_survives_a_restart_and_goes_on_from_the_store_alone(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    one, two = stand(device, packages)
    for built in (one, two):
        (built.folder / "manifest.json").unlink()
    device.restart()
    device.activation.resume()
    wait_for(lambda: device.states().get("1.1.0") is PackageState.SHADOW)
    assert asked(device, kit, wait_for).rows == 12
    assert device.activation.hand_over(two.handover(2, Mode.SHADOW)).state is PackageState.SHADOW
    device.service.residents.unload("watch")
    assert device.service.shadowing.readings() == ()
    device.activation.load("watch")
    assert reading(device).version == "1.1.0"


@pytest.mark.parametrize("ending", ["another", "put back", "retire", "stage", "other shadow", "by hand"])
def test_a_later_hand_over_ends_it(device: Any, packages: Callable, ending: str) -> None:
    one, two = stand(device, packages)
    three = packages("1.2.0", 3.0)
    handover = {
        "another": three.handover(3),
        "put back": one.handover(3),
        "retire": two.handover(3, Mode.RETIRE),
        "stage": three.handover(3, Mode.STAGE),
        "other shadow": three.handover(3, Mode.SHADOW),
        "by hand": three.handover(0),
    }[ending]
    closed = device.service.residents.shadow("watch")
    device.activation.hand_over(handover, by_hand=ending == "by hand")
    assert closed.retired
    now = device.service.residents.shadow("watch")
    assert (now.manifest.version if now else "") == ("1.2.0" if ending == "other shadow" else "")
    late = device.activation.hand_over(two.handover(2, Mode.SHADOW))
    assert late.state is PackageState.REFUSED
    device.restart()
    device.activation.resume()
    assert "1.1.0" not in device.states()


def test_what_a_person_installs_and_is_refused_leaves_the_shadow(device: Any, packages: Callable) -> None:
    stand(device, packages)
    refused = device.activation.hand_over(packages("1.2.0", 2.0, golden_error=0.1).handover(0), by_hand=True)
    assert refused.state is PackageState.REFUSED
    assert reading(device).version == "1.1.0"


def test_what_cannot_stand_beside_is_refused_and_says_why(device: Any, packages: Callable, kit: ModuleType) -> None:
    built = packages("1.1.0", 1.0)
    alone = device.activation.hand_over(built.handover(1, Mode.SHADOW))
    assert alone.state is PackageState.REFUSED
    assert alone.reason.startswith("shadow: No version of watch answers here")
    one = packages("1.0.0", 1.0)
    device.activation.hand_over(one.handover(2))
    itself = device.activation.hand_over(one.handover(3, Mode.SHADOW))
    assert itself.state is PackageState.ACTIVE  # it answers, and that is more

    def other_unit(manifest: Any) -> Any:
        return replace(manifest, inputs=(TensorSpec("window", "FP32", (-1, kit.STEPS, kit.CHANNELS), "m/s2"),))

    other = device.activation.hand_over(packages("1.2.0", 1.0, change=other_unit).handover(4, Mode.SHADOW))
    assert "takes other inputs than 1.0.0" in other.reason
    bad = device.activation.hand_over(packages("1.3.0", 1.0, golden_error=0.1).handover(5, Mode.SHADOW))
    assert bad.reason.startswith("golden: ")
    assert device.states()["1.3.0"] is PackageState.REFUSED
    assert device.service.shadowing.readings() == ()


def test_the_version_before_becomes_the_shadow_without_being_loaded(device: Any, packages: Callable) -> None:
    one, two = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(one.handover(1))
    device.activation.hand_over(two.handover(2))
    loads = device.loads
    assert device.activation.hand_over(one.handover(3, Mode.SHADOW)).note == "it was resident"
    assert device.loads == loads
    with pytest.raises(ModelNotFound):
        device.serves("1.0.0")
    assert device.activation.hand_over(one.handover(4)).state is PackageState.ACTIVE
    assert (device.loads, device.serves()) == (loads, ("1.0.0", 1.0))


def test_after_a_local_rollback_it_stands_beside_what_answers_then_and_counts_anew(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    zero = packages("0.9.0", 1.0)
    device.activation.hand_over(zero.handover(0))
    stand(device, packages)
    asked(device, kit, wait_for)
    device.activation.rollback("watch", "too warm")
    assert device.serves() == ("0.9.0", 1.0)
    wait_for(lambda: (reading(device).against, reading(device).runs) == (zero.digest, 1))


class Controlled:
    """A real engine that first does what a test says."""

    provider = "CPUExecutionProvider"
    degraded = ""

    def __init__(self, inner: Engine, before: Callable[[Stop | None], None]) -> None:
        self.inner, self.before = inner, before

    def run(self, inputs: Arrays, stop: Stop | None = None) -> EngineResult:
        self.before(stop)
        return self.inner.run(inputs, stop)

    def close(self) -> None:
        self.inner.close()


def control(device: Any, before: Callable[[Stop | None], None]) -> None:
    shadow = device.service.residents.shadow("watch")
    shadow.engine = Controlled(shadow.engine, before)


def until_asked(began: Event) -> Callable[[Stop | None], None]:
    """A run that goes on until it is told to stop, as an operator that is never done between two looks."""

    def before(stop: Stop | None) -> None:
        assert stop is not None
        ended = Event()
        stop.when_asked(ended.set)
        began.set()
        assert ended.wait(PATIENCE_S)
        raise RuntimeError("terminated")

    return before


def test_a_request_never_waits_for_a_shadow_that_runs_and_ends_its_run(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    """The control of what must never be: this shadow would run for ever, and the gate has one place."""
    device.service.runner.gate = Gate(1)
    stand(device, packages)
    began = Event()
    control(device, until_asked(began))
    for number in range(shadowing.TRIES):
        device.ask(kit.window(seed=number))
        assert began.wait(PATIENCE_S)  # only a request can end it now
        began.clear()
    assert device.ask(kit.window()).version == "1.0.0"
    wait_for(lambda: dict(device.service.shadowing.dropped("watch"))["interrupted"] >= 1)
    assert reading(device).runs == reading(device).failed == 0


def test_while_a_request_is_inside_no_shadow_begins(device: Any, packages: Callable, kit: ModuleType) -> None:
    stand(device, packages)
    runs: list[int] = []
    control(device, lambda stop: runs.append(1))
    with device.service.gate.enter(1.0):  # as a request that is inside all the time
        for seed in range(5):
            device.ask(kit.window(seed=seed))
        time.sleep(5 * shadowing.IDLE_POLL_S)
        assert runs == []


def test_the_oldest_are_dropped_where_the_queue_is_full_and_counted(
    device: Any, packages: Callable, kit: ModuleType, monkeypatch: pytest.MonkeyPatch, wait_for: Callable
) -> None:
    stand(device, packages)
    shadowed = device.service.shadowing
    with device.service.gate.enter(1.0):
        for seed in range(shadowing.MAX_WAITING + 10):
            device.ask(kit.window(seed=seed))
        assert dict(shadowed.dropped("watch"))["queue-full"] == 10
        monkeypatch.setattr(shadowing, "STALE_S", 0.0)
        wait_for(lambda: dict(shadowed.dropped("watch"))["no-lull"] == shadowing.MAX_WAITING)
    monkeypatch.setattr(shadowing, "MAX_WAITING_BYTES", 100)
    device.ask(kit.window(8))
    assert dict(shadowed.dropped("watch"))["queue-full"] == 11
    assert reading(device).runs == 0


def test_the_share_is_the_setting_s(device: Any, packages: Callable, kit: ModuleType, wait_for: Callable) -> None:
    stand(device, packages)
    device.service.shadowing.share = 0.0
    for seed in range(20):
        device.ask(kit.window(seed=seed))
    device.service.shadowing.share = 1.0
    assert asked(device, kit, wait_for, 1).runs == 1


def test_a_shadow_whose_runs_fail_is_counted_and_costs_nobody_an_answer(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    stand(device, packages)

    def fail(stop: Stop | None) -> None:
        raise RuntimeError("no such operator")

    control(device, fail)
    found = asked(device, kit, wait_for)
    assert (found.failed, found.runs) == (6, 0)
    assert device.service.counters("watch").failures == 0
    paired = found.paired
    assert device.reports()["1.1.0"].evidence == Evidence(
        against=found.against, requests=6, errors=6, probes=8, probe_us=paired.median_us,
        probe_us_before=paired.median_us_before, probes_slower=paired.slower,
    )  # fmt: skip


def test_a_shadow_that_hangs_is_ended_and_after_three_times_quarantined(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    device.watchdog = Watchdog(
        0.1,
        lambda one, reason: device.activation.quarantine(one.manifest.name, one.digest, reason, timeout_s=10),
        lambda one: pytest.fail("it can be stopped"),
    )
    device.restart()
    device.watchdog.start()
    try:
        _, two = stand(device, packages)
        began = Event()
        control(device, until_asked(began))
        for seed in range(STRIKES):
            device.ask(kit.window(seed=seed))
            wait_for(lambda number=seed: not device.service.shadowing.readings() or reading(device).failed > number)
        wait_for(lambda: device.service.residents.shadow("watch") is None)
        report = device.reports()["1.1.0"]
        assert (report.state, report.digest) == (PackageState.QUARANTINED, two.digest)
        assert "in a row took longer" in report.reason
        assert device.serves() == ("1.0.0", 1.0)
    finally:
        device.watchdog.close()


def test_a_device_without_room_says_so_and_a_shadow_that_made_room_too(device: Any, packages: Callable) -> None:
    device.memory_megabytes = 2  # each package is measured as 1 MB
    device.restart()
    stand(device, packages)
    device.activation.hand_over(packages("3.0.0", 1.0, name="other").handover(1))
    report = device.reports()["1.1.0"]
    assert (report.state, report.reason) == (
        PackageState.REFUSED, "budget: as a shadow it made room for other, which answers.",
    )  # fmt: skip
    full = device.activation.hand_over(packages("1.2.0", 1.0).handover(5, Mode.SHADOW))
    assert full.reason.startswith("budget: As a shadow the package takes 1 MB beside the 2 MB")
    assert device.serves() == ("1.0.0", 1.0)


def test_the_report_of_a_shadow_fits_and_is_read_as_it_was_written(
    device: Any, packages: Callable, kit: ModuleType, wait_for: Callable
) -> None:
    stand(device, packages)
    asked(device, kit, wait_for)
    report = DeviceReport("thing", 1, "1.2.0", tuple(device.reports().values()))
    data = report.to_bytes()
    assert len(data) <= MAX_REPORT_BYTES // 2
    assert DeviceReport.from_bytes(data) == report


def test_many_callers_and_a_shadow_lose_no_answer(device: Any, packages: Callable, kit: ModuleType) -> None:
    stand(device, packages, factor=2.0)
    wrong: list[object] = []

    def call(number: int) -> None:
        for turn in range(60):
            try:
                answer = device.ask(kit.window(seed=number))
                if answer.version != "1.0.0":
                    wrong.append(answer.version)
            except DeadlineExceeded as error:
                wrong.append(error)
            time.sleep(0.003 * (turn % 3))

    threads = [Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert reading(device).disagreed == 0
