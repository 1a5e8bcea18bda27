"""Gates by table: what passes, what fails, and what cannot be said yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hybridge_cloud.rollout.gates import judge
from hybridge_cloud.rollout.plan import Limits, Plan
from hybridge_cloud.rollout.simulate import BEFORE, Scenario, Simulation
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.report import Evidence

GOOD = Evidence(
    against=BEFORE.digest, requests=300, probes=128, probes_disagreed=4, probes_slower=6, live=15, live_disagreed=1
)
PASS, FAIL, HOLD = Outcome.PASS, Outcome.FAIL, Outcome.HOLD


@pytest.fixture
def plan() -> Plan:
    return Simulation(Scenario(), 0).plan


def _verdict(plan: Plan, gate: Gate, *evidence: Evidence | None, late: bool = False) -> GateVerdict:
    standings = [Standing(f"d{index}", End.DONE, "2.0.0 is ACTIVE", seen) for index, seen in enumerate(evidence)]
    verdicts = judge(plan, standings, late)
    assert [verdict.gate for verdict in verdicts] == [one for one in Gate if one is not Gate.SCORES]
    return next(verdict for verdict in verdicts if verdict.gate is gate)


def test_a_good_device_passes_every_gate(plan: Plan) -> None:
    verdicts = judge(plan, [Standing("d", End.DONE, "", GOOD)], late=False)
    assert {verdict.outcome for verdict in verdicts} == {PASS}


@pytest.mark.parametrize(
    ("gate", "changed", "outcome", "said"),
    [
        (Gate.ERRORS, {"errors": 3}, PASS, "3 of 300 requests failed (1.0 %), at most 1.0 % allowed"),
        (Gate.ERRORS, {"errors": 5}, HOLD, "too few to be sure"),
        (Gate.ERRORS, {"errors": 60}, FAIL, "60 of 300 requests failed (20.0 %)"),
        (Gate.ERRORS, {"requests": 199}, HOLD, "0 of 199 requests failed (0.0 %), at most 1.0 % allowed; 200 are"),
        (Gate.ERRORS, {"requests": 0}, HOLD, "200 are needed to judge"),
        (Gate.ERRORS, {"requests": 10, "errors": 10}, HOLD, "200 are needed"),
        (Gate.ERRORS, {"requests": 20, "errors": 10}, FAIL, "p < 1e-9"),
        (Gate.GUARDS, {"guarded": 300}, FAIL, "300 of 300 answers broke a guard (100.0 %), at most 0.1 % allowed"),
        (Gate.GUARDS, {"guarded": 1}, HOLD, "too few to be sure"),
        (
            Gate.LATENCY,
            {"probes_slower": 128, "probe_us": 9000, "probe_us_before": 900},
            FAIL,
            "9000 us, 900 us before",
        ),
        (Gate.LATENCY, {"probes_slower": 64}, PASS, "64 of 128 paired runs took more than 1.5 times as long"),
        (Gate.LATENCY, {"probes": 49}, HOLD, "0 of 1 devices answered 50 probes or more"),
        (Gate.PROBES, {"probes_disagreed": 93}, FAIL, "d0: 93 of 128 rows (72.7 %), at most 4.8 % + 5.0 % expected"),
        (Gate.PROBES, {"probes_disagreed": 12}, PASS, "12 of 128 rows (9.4 %)"),
        (Gate.PROBES, {"probes": 0}, HOLD, "half of them are needed"),
        (Gate.PROBES, {"against": "sha256:" + "9" * 64}, HOLD, "0 of 1 devices"),
        (Gate.LIVE, {"live": 40, "live_disagreed": 30}, FAIL, "30 of 40 rows (75.0 %)"),
        (Gate.LIVE, {"live": 0}, PASS, "none are asked for"),
    ],
)
def test_verdicts_say_test_numbers_and_counts(
    plan: Plan, gate: Gate, changed: dict[str, int], outcome: Outcome, said: str
) -> None:
    verdict = _verdict(plan, gate, replace(GOOD, **changed))  # type: ignore[arg-type]
    assert verdict.outcome is outcome, verdict.reason
    assert said in verdict.reason
    late = _verdict(plan, gate, replace(GOOD, **changed), late=True)  # type: ignore[arg-type]
    assert late.outcome is (FAIL if outcome is HOLD else outcome)  # what cannot be judged in time never passes


@pytest.mark.parametrize("gate", [Gate.ERRORS, Gate.GUARDS, Gate.LATENCY, Gate.PROBES])
def test_without_evidence_nothing_passes(plan: Plan, gate: Gate) -> None:
    assert _verdict(plan, gate, None).outcome is HOLD
    assert _verdict(plan, gate, Evidence()).outcome is HOLD


def test_one_device_of_many_that_answers_otherwise_fails_the_wave(plan: Plan) -> None:
    odd = replace(GOOD, probes_disagreed=100)
    verdict = _verdict(plan, Gate.PROBES, *[GOOD] * 30, odd)
    assert verdict.outcome is FAIL
    assert verdict.reason.startswith("d30: 100 of 128 rows")


def test_half_of_the_devices_must_have_compared(plan: Plan) -> None:
    restarted = replace(GOOD, probes=0, probes_disagreed=0, probes_slower=0)
    assert _verdict(plan, Gate.PROBES, GOOD, restarted).outcome is PASS
    assert _verdict(plan, Gate.PROBES, GOOD, restarted, restarted).outcome is HOLD


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (None, "was not compared"),
        (Comparison("sha256:" + "9" * 64, 400, 4), "compared with another version than 1.0.0"),
        (Comparison(BEFORE.digest, 4, 1), "tells nothing"),
    ],
    ids=["none", "another", "too few rows"],
)
def test_a_comparison_that_cannot_serve_holds_unless_the_operator_asks_for_none(
    plan: Plan, comparison: Comparison | None, said: str
) -> None:
    without = replace(plan, comparison=comparison)
    verdict = _verdict(without, Gate.PROBES, GOOD)
    assert (verdict.outcome, said in verdict.reason) == (HOLD, True)
    waived = replace(without, limits=Limits(minimum_probes=0))
    verdict = _verdict(waived, Gate.PROBES, GOOD)
    assert (verdict.outcome, "minimum_probes is 0" in verdict.reason) == (PASS, True)


def test_a_first_version_is_judged_by_what_needs_no_other(plan: Plan) -> None:
    first = replace(plan, previous_version="", previous_digest="", comparison=None)
    alone = Evidence(requests=300)
    assert {verdict.outcome for verdict in judge(first, [Standing("d", End.DONE, "", alone)], late=False)} == {PASS}
    assert _verdict(first, Gate.ERRORS, replace(alone, errors=100)).outcome is FAIL
    assert _verdict(first, Gate.PROBES, alone).reason == "there is no version before to compare with"


@pytest.mark.parametrize(
    ("ends", "late", "allowed", "outcome"),
    [
        ((End.DONE, End.DONE), False, 0, PASS),
        ((End.DONE, End.PENDING), False, 0, HOLD),
        ((End.DONE, End.SILENT), False, 0, HOLD),
        ((End.DONE, End.SILENT), True, 0, FAIL),
        ((End.DONE, End.PENDING), True, 0, FAIL),
        ((End.DONE, End.SILENT), True, 1, PASS),
        ((End.DONE, End.OFFLINE), False, 0, PASS),
        ((End.OFFLINE, End.OFFLINE), False, 0, HOLD),
        ((End.OFFLINE, End.OFFLINE), True, 0, FAIL),
        ((End.DONE, End.REFUSED), False, 0, FAIL),
        ((End.DONE, End.FAILED), False, 0, FAIL),
        ((End.DONE, End.REFUSED), False, 1, PASS),
        ((End.REFUSED,), True, 1, FAIL),
    ],
)
def test_activation_counts_devices(
    plan: Plan, ends: tuple[End, ...], late: bool, allowed: int, outcome: Outcome
) -> None:
    limited = replace(plan, limits=Limits(failed_devices=allowed))
    standings = [Standing(f"d{index}", end, "says so", GOOD) for index, end in enumerate(ends)]
    assert judge(limited, standings, late)[0].outcome is outcome
