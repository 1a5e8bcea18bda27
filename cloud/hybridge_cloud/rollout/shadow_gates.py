"""What a wave's shadow stage is judged by: live rows that both versions answered, or else the probe set.

A version that is a shadow answers nobody, so its failures harm nobody either: they fail the stage where they are sure,
and where there are too few runs to say, they are judged once the version answers. Disagreement and time are never left
to that: with too few live rows the probe set decides, and without either nothing passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hybridge_cloud.rollout import gates
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.shadow_stage import ShadowStage
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.report import SLOWER, Evidence

BY_LIVE, BY_LIVE_PAIRS = "sequential binomial on live requests", "sequential sign test on live requests"
"""Tests that stood in for the probe set."""
BY_SCORES = "distance of the scores' distributions"
MINIMUM_TIMED = 20
"""Pairs of runs that a wave's devices must have timed together, to be judged by them."""
MINIMUM_SCORES = 20
"""Rows of a device whose scores say anything."""
_ONCE = "it is judged once the version answers"
_Running = Sequence[tuple[str, Evidence]]


def judge(plan: Plan, standings: Sequence[Standing], late: bool, waited: bool) -> tuple[GateVerdict, ...]:
    """Every gate's verdict on the shadow stage of a wave, in the order of `Gate`.

    Args:
        late: the wave's deadline is over: what still HOLDs has failed. waited: `wait_seconds` are over.
    """
    stage = plan.limits.shadow or ShadowStage()
    done = sum(item.end is End.DONE for item in standings)
    running = [
        (item.thing, item.evidence)
        for item in standings
        if item.evidence is not None and item.evidence.against == plan.previous_digest
    ]
    rows = sum(seen.live for _, seen in running)
    taking_part = sum(seen.live > 0 for _, seen in running)
    enough = rows >= stage.minimum_requests and taking_part >= stage.share * done
    lacking = f"{rows} of {stage.minimum_requests} live rows on {taking_part} of {done} devices"
    verdicts = (
        gates.activation(standings, plan.limits, late, "keep it as a shadow"),
        _harmless(Gate.ERRORS, running, plan, "runs failed", plan.limits.error_rate, lambda seen: seen.errors, waited),
        _harmless(
            Gate.GUARDS,
            running,
            plan,
            "answers broke a guard",
            plan.limits.guard_rate,
            lambda seen: seen.guarded,
            waited,
        ),
        _latency(plan, running, done, waited),
        _probes(plan, running, done, enough, waited, lacking),
        _live(plan, running, enough, waited, lacking),
        _scores(plan, stage, running, enough, waited),
    )
    return tuple(gates.ended(verdict, plan.limits) if late else verdict for verdict in verdicts)


def stood_in(shadowed: Sequence[GateVerdict], gate: Gate) -> GateVerdict | None:
    """The verdict of a shadow stage that live requests gave in place of a gate that the probe set decides, or None.

    Args:
        gate: PROBES or LATENCY.
    """
    judged_as, test = {Gate.PROBES: (Gate.LIVE, BY_LIVE), Gate.LATENCY: (Gate.LATENCY, BY_LIVE_PAIRS)}[gate]
    found = next((one for one in shadowed if one.gate is judged_as and one.test == test), None)
    if found is None or found.outcome is not Outcome.PASS:
        return None
    reason = f"judged as a shadow, by live requests in place of the probe set: {found.reason}"
    return GateVerdict(gate, Outcome.PASS, found.test, reason)


def said(shadowed: Sequence[GateVerdict]) -> str:
    """What a stage that passed was judged by, for the audit."""
    by_live = any(one.gate is Gate.LIVE and one.test == BY_LIVE for one in shadowed)
    gate = Gate.LIVE if by_live else Gate.PROBES
    reason = next((one.reason for one in shadowed if one.gate is gate), "")
    return f"by {'live requests' if by_live else 'the probe set'}: {reason}"


def _harmless(
    gate: Gate,
    running: _Running,
    plan: Plan,
    what: str,
    allowed: float,
    count: Callable[[Evidence], int],
    waited: bool,
) -> GateVerdict:
    """Errors and guards of runs that nobody waited for."""
    limits = plan.limits
    total = sum(seen.requests for _, seen in running)
    bad = min(total, sum(count(seen) for _, seen in running))
    found = gates.sequential(gate, f"{bad} of {total} {what}", bad, total, allowed, MINIMUM_TIMED, limits.alpha)
    if found.outcome is Outcome.HOLD and waited:
        return GateVerdict(gate, Outcome.PASS, "", f"{bad} of {total} {what}, too few runs as a shadow: {_ONCE}")
    return found


def _latency(plan: Plan, running: _Running, done: int, waited: bool) -> GateVerdict:
    limits = plan.limits
    timed = sum(seen.live_timed for _, seen in running)
    slower = min(timed, sum(seen.live_slower for _, seen in running))
    counted = f"{slower} of {timed} live pairs of runs took more than {SLOWER:g} times as long"
    found = gates.sequential(Gate.LATENCY, counted, slower, timed, limits.slower_share, MINIMUM_TIMED, limits.alpha)
    if timed >= MINIMUM_TIMED:
        return replace(found, test=BY_LIVE_PAIRS)
    if not waited:
        return found
    probed = gates.latency(plan, running, done)
    return replace(probed, reason=f"the probe set stands in for {timed} of {MINIMUM_TIMED} live pairs: {probed.reason}")


def _probes(plan: Plan, running: _Running, done: int, enough: bool, waited: bool, lacking: str) -> GateVerdict:
    if enough:
        return GateVerdict(Gate.PROBES, Outcome.PASS, "", "live requests judge in its place")
    if not waited:
        return GateVerdict(Gate.PROBES, Outcome.HOLD, "", f"live requests come first: {lacking}")
    found = gates.probes(plan, running, done)
    return replace(found, reason=f"the probe set stands in for live requests ({lacking}): {found.reason}")


def _live(plan: Plan, running: _Running, enough: bool, waited: bool, lacking: str) -> GateVerdict:
    if (skipped := gates.not_compared(Gate.LIVE, plan)) is not None:
        return skipped
    limits = plan.limits
    allowed, made_up = gates.expected_disagreement(plan)
    total = sum(seen.live for _, seen in running)
    bad = min(total, sum(seen.live_disagreed for _, seen in running))
    found = gates.sequential(Gate.LIVE, f"{bad} of {total} rows", bad, total, allowed, 1, limits.alpha, made_up)
    if enough or found.outcome is Outcome.FAIL:
        return replace(found, test=BY_LIVE)
    if waited:
        return GateVerdict(Gate.LIVE, Outcome.PASS, "", f"{lacking}: too few, the probe set stands in")
    return GateVerdict(Gate.LIVE, Outcome.HOLD, BY_LIVE, f"{lacking}; the probe set stands in after the wait")


def _scores(plan: Plan, stage: ShadowStage, running: _Running, enough: bool, waited: bool) -> GateVerdict:
    """Whether on some device the scores lie further apart than allowed, by more than chance explains.

    Two samples of n rows from one distribution lie further than sqrt(ln(2 / a) / n) apart with a chance of a at most
    (the bound of Dvoretzky, Kiefer, Wolfowitz and Massart for each, summed). It is looked at again and again, so a is
    alpha over the devices and no more is claimed for it than that a large shift of many rows is found.
    """
    judged = [(seen.score_shift / 1000, thing, seen.live) for thing, seen in running if seen.live >= MINIMUM_SCORES]
    if not judged or not enough:
        if waited:
            return GateVerdict(Gate.SCORES, Outcome.PASS, "", "not judged: too few live rows to compare scores")
        return GateVerdict(Gate.SCORES, Outcome.HOLD, BY_SCORES, "waits for live rows")
    shift, thing, rows = max(judged)
    worst = max(judged, key=lambda item: item[0] - _chance(item[2], plan.limits.alpha, len(judged)))
    sure = worst[0] - _chance(worst[2], plan.limits.alpha, len(judged))
    if sure > stage.score_shift:
        shift, thing, rows = worst
    reason = f"{thing}: {shift:.3f} apart over {rows} rows, at most {stage.score_shift:g} allowed"
    if sure > stage.score_shift:
        return GateVerdict(Gate.SCORES, Outcome.FAIL, BY_SCORES, reason)
    if shift > stage.score_shift:
        return GateVerdict(Gate.SCORES, Outcome.HOLD, BY_SCORES, f"{reason}: too few to be sure")
    return GateVerdict(Gate.SCORES, Outcome.PASS, BY_SCORES, reason)


def _chance(rows: int, alpha: float, devices: int) -> float:
    return math.sqrt(math.log(2 * devices / alpha) / rows)
