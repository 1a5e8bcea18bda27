"""A package keeps within its budget and the device's, or does not answer; what stays in memory is planned (F21)."""

from collections.abc import Callable
from dataclasses import replace
from threading import Event, Thread
from typing import Any

import pytest

from hybridge_edge.admission.passed import MAX_PASSED, Measured, Passed
from hybridge_edge.admission.plan import RESERVE_BYTES, Held, Plan, Previous, check_disk, fits, plan
from hybridge_edge.admission.trial import Verdict
from hybridge_edge.admission.warm_up import BUDGET_FACTOR, RUNS, warm_up
from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.states import PackageState
from hybridge_edge.engine import load
from hybridge_edge.package import Package
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service

NO_BUDGETS = Budgets()
OLD = Held("watch", "1.0.0", 40, True)
OTHER = Held("bearing", "3.0.0", 30, True)
OTHER_STANDBY = Held("bearing", "2.0.0", 25, False)


@pytest.mark.parametrize(
    ("held", "limit", "expected"),
    [
        ((), 0, Plan(Previous.NONE, "there is no version before", (), 50)),
        ((OLD,), 0, Plan(Previous.RESIDENT, "90 MB are held then", (), 90)),
        ((OLD,), 90, Plan(Previous.RESIDENT, "90 MB are held then, 90 MB are allowed", (), 90)),
        ((OLD,), 89, Plan(Previous.ON_DISK, "with it 90 MB would be held, over 89 MB", (), 50)),
        ((OLD,), 50, Plan(Previous.ON_DISK, "with it 90 MB would be held, over 50 MB", (), 50)),
        ((OLD, OTHER), 119, Plan(Previous.ON_DISK, "with it 120 MB would be held, over 119 MB", (), 80)),
        (
            (OLD, OTHER, OTHER_STANDBY),
            145,
            Plan(Previous.RESIDENT, "145 MB are held then, 145 MB are allowed", (), 145),
        ),
        ((OTHER, OTHER_STANDBY), 105, Plan(Previous.NONE, "there is no version before", (), 105)),
        ((OTHER, OTHER_STANDBY), 104, Plan(Previous.NONE, "there is no version before", ("bearing",), 80)),
    ],
)
def test_what_stays_in_memory(held: tuple[Held, ...], limit: int, expected: Plan) -> None:
    assert plan("watch", 50, NO_BUDGETS, held, limit) == expected


@pytest.mark.parametrize(
    ("budgets", "held", "limit", "reason"),
    [
        (NO_BUDGETS, (), 49, r"takes 50 MB and the other models 0 MB; 49 MB are allowed together"),
        (NO_BUDGETS, (OLD, OTHER), 79, r"takes 50 MB and the other models 30 MB; 79 MB are allowed together"),
        (Budgets(memory_megabytes=49), (), 0, r"takes 50 MB of memory; its own budget is 49 MB"),
    ],
)
def test_what_may_not_be_loaded(budgets: Budgets, held: tuple[Held, ...], limit: int, reason: str) -> None:
    with pytest.raises(PackageRefused, match=reason) as refused:
        plan("watch", 50, budgets, held, limit)
    assert (refused.value.step, bool(refused.value.remedy)) == ("budget", True)


def test_room_is_looked_for_before_anything_is_copied() -> None:
    check_disk(1000, 1000 + RESERVE_BYTES)
    with pytest.raises(PackageRefused, match=r"needs 1 MB and 64 MB are free, of which 64 MB are kept") as refused:
        check_disk(1000, 999 + RESERVE_BYTES)
    assert refused.value.step == "install"
    assert fits(10, (OLD,), 50)
    assert not fits(11, (OLD,), 50)
    assert fits(11, (OLD,), 0)


def taking(megabytes: dict[str, int]) -> Callable[[Package, Callable[[], bool]], Verdict]:
    """A trial that has measured so much of each version."""
    return lambda package, stop: Verdict(Measured(memory_kib=megabytes[package.manifest.version] * 1024))


def test_the_version_before_stays_where_there_is_room_and_the_answer_says_so(device: Any, packages: Callable) -> None:
    device.trial, device.memory_megabytes = taking({"1.0.0": 40, "1.1.0": 50, "1.2.0": 60, "1.3.0": 200}), 100
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    second = device.activation.hand_over(packages("1.1.0", 2.0).handover(2))
    assert "the version before is resident: 90 MB are held then, 100 MB are allowed" in second.note
    assert device.service.residents.versions("watch") == ("1.1.0", "1.0.0")
    third = device.activation.hand_over(packages("1.2.0", 3.0).handover(3))
    assert "the version before is on disk only: with it 110 MB would be held, over 100 MB" in third.note
    assert device.service.residents.versions("watch") == ("1.2.0",)
    assert device.serves() == ("1.2.0", 3.0)
    refused = device.activation.hand_over(packages("1.3.0", 4.0).handover(4))
    assert refused.reason == "budget: The package takes 200 MB and the other models 0 MB; 100 MB are allowed together."
    assert device.activation.rollback("watch", "too warm").version == "1.1.0"  # from the disk
    assert device.serves() == ("1.1.0", 2.0)


def test_several_models_share_the_memory(device: Any, packages: Callable) -> None:
    device.trial, device.memory_megabytes = taking({"1.0.0": 30, "1.1.0": 30, "2.0.0": 70}), 100
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0, name="bearing").handover(1))
    device.activation.hand_over(packages("1.1.0", 1.0, name="bearing").handover(2))
    assert device.service.residents.versions("bearing") == ("1.1.0", "1.0.0")
    answer = device.activation.hand_over(packages("2.0.0", 2.0).handover(1))
    assert (answer.state, "bearing lost a resident version before" in answer.note) == (PackageState.ACTIVE, True)
    assert device.service.residents.versions("bearing") == ("1.1.0",)
    refused = device.activation.hand_over(packages("1.0.0", 3.0, name="third").handover(1))
    assert refused.reason == "budget: The package takes 30 MB and the other models 100 MB; 100 MB are allowed together."


@pytest.mark.parametrize(
    ("budgets", "reason"),
    [
        (
            Budgets(p99_us=1),
            r"budget: One row takes \d+ us at the 99th percentile of \d+ runs; .* budget is 1 us",
        ),
        (Budgets(memory_megabytes=8), r"budget: The package takes 9 MB of memory; its own budget is 8 MB"),
    ],
)
def test_a_package_over_its_own_budget_is_refused(
    device: Any, packages: Callable, budgets: Budgets, reason: str
) -> None:
    device.trial = taking({"1.0.0": 9, "1.1.0": 9})
    device.restart()
    device.activation.hand_over(packages("1.0.0", 1.0).handover(1))
    over = packages("1.1.0", 2.0, change=lambda manifest: replace(manifest, budgets=budgets))
    answer = device.activation.hand_over(over.handover(2))
    assert answer.state is PackageState.REFUSED
    with pytest.raises(PackageRefused, match=reason):
        raise PackageRefused(answer.reason)
    assert device.serves() == ("1.0.0", 1.0)
    # The control: the same package with a budget that it keeps.
    budgets = Budgets(p99_us=60_000_000, memory_megabytes=9)
    kept = packages("1.1.0", 2.0, change=lambda manifest: replace(manifest, budgets=budgets))
    answer = device.activation.hand_over(kept.handover(3))
    assert answer.state is PackageState.ACTIVE
    measured = device.activation.measured(kept.digest)
    assert 0 < measured.p50_us <= measured.p99_us <= budgets.p99_us * BUDGET_FACTOR
    assert str(measured) in answer.note


def test_warm_up_ends_when_its_time_is_over_and_lets_requests_go_first(device: Any, packages: Callable) -> None:
    built = packages("1.0.0", 1.0)
    device.activation.hand_over(built.handover(1))
    package = device.store.open(built.digest, device.trust)
    fresh = Resident(package.manifest, package.digest, load(package, 1), device.store.trial(built.digest))
    gate = Gate(1)
    runner = Service(gate, lambda model, digest: None).runner
    assert warm_up(package, fresh, runner, lambda: False).runs == RUNS
    assert warm_up(package, fresh, runner, lambda: False, seconds=0.0).runs == 0
    assert warm_up(package, fresh, runner, lambda: True).runs == 0
    assert warm_up(package, fresh, runner, lambda: False, measure=False).runs == 0
    # A request that holds the only place holds the warm-up too, and is not held by it.
    entered, go = Event(), Event()

    def request() -> None:
        with gate.enter(5.0):
            entered.set()
            go.wait(5.0)

    thread = Thread(target=request)
    thread.start()
    entered.wait(5.0)
    assert warm_up(package, fresh, runner, lambda: False, seconds=0.3).runs == 0
    go.set()
    thread.join()
    fresh.engine.close()


def test_a_package_that_comes_back_is_warmed_and_not_measured_again(device: Any, packages: Callable) -> None:
    one, two, three = (packages(f"1.{number}.0", 1.0 + number) for number in range(3))
    device.activation.hand_over(one.handover(1))
    measured = device.activation.measured(one.digest)
    for number, built in enumerate((two, three, one)):
        answer = device.activation.hand_over(built.handover(2 + number))
    assert device.serves() == ("1.0.0", 1.0)
    assert device.activation.measured(one.digest) == measured
    assert str(measured) in answer.note


def test_a_full_disk_costs_the_package_in_reserve_before_it_costs_the_new_one(
    device: Any, packages: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        device.activation.hand_over(packages(f"1.{number}.0", 1.0 + number).handover(number + 1))
    folder = device.folder / "packages"

    def free() -> int:
        """Room for one package, where only two are."""
        return 0 if len(list(folder.iterdir())) > 2 else RESERVE_BYTES + 1024**2

    monkeypatch.setattr(device.store, "free_bytes", free)
    assert device.activation.hand_over(packages("1.3.0", 4.0).handover(4)).state is PackageState.ACTIVE
    assert device.activation.hand_over(packages("1.4.0", 5.0).handover(5)).state is PackageState.ACTIVE
    monkeypatch.setattr(device.store, "free_bytes", lambda: 0)
    refused = device.activation.hand_over(packages("1.5.0", 6.0).handover(6))
    assert refused.reason.startswith("install: The package needs 1 MB and 0 MB are free, of which 64 MB are kept")
    assert device.serves() == ("1.4.0", 5.0)


def test_what_passed_is_bounded_and_survives(tmp_path: Any) -> None:
    passed = Passed(tmp_path)
    digests = [f"sha256:{number:064x}" for number in range(MAX_PASSED + 2)]
    for number, digest in enumerate(digests):
        passed.remember(digest, "runtime 1", Measured(number, 1, 2, 3))
    again = Passed(tmp_path)
    assert [again.find(digest, "runtime 1") for digest in digests[:3]] == [None, None, Measured(2, 1, 2, 3)]
    assert again.find(digests[-1], "runtime 2") is None
    assert again.warmed_up(digests[-1], "runtime 1", 7, 9) == Measured(MAX_PASSED + 1, 1, 7, 9)
    assert Passed(tmp_path).find(digests[-1], "runtime 1") == Measured(MAX_PASSED + 1, 1, 7, 9)
