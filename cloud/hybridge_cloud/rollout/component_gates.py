"""What a wave of a component is judged by: every device's end, and that its models fail no more and take no longer.

A component answers nothing itself, so there is nothing to compare it with row by row. Where no report carries a count
or a duration, that gate says so and passes: the device's end has been judged by its own report already.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridge_cloud.rollout import gates
from hybridge_cloud.rollout.baseline import Baseline, counted, medians
from hybridge_cloud.rollout.plan import Limits, Plan
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.report import SLOWER


def judge(plan: Plan, baseline: Baseline, standings: Sequence[Standing], late: bool) -> tuple[GateVerdict, ...]:
    """Every gate's verdict on a wave of a component.

    Args:
        baseline: what the ring's devices reported before. late: the deadline is over: what still HOLDs has failed.
    """
    verdicts = (
        _deployment(standings, plan.limits, late),
        _errors(baseline, standings, plan.limits),
        _latency(baseline, standings),
    )
    return tuple(gates.ended(verdict, plan.limits) if late else verdict for verdict in verdicts)


def _deployment(standings: Sequence[Standing], limits: Limits, late: bool) -> GateVerdict:
    """As a model's activation, but a device that nobody put back fails the wave, whatever number may fail."""
    down = [item for item in standings if item.end is End.FAILED]
    if not down:
        return gates.activation(standings, limits, late)
    done = sum(item.end is End.DONE for item in standings)
    reason = f"{done} of {len(standings)} devices run it; without a healthy one: {gates.named(down)}"
    return GateVerdict(Gate.ACTIVATION, Outcome.FAIL, "count", reason)


def _errors(baseline: Baseline, standings: Sequence[Standing], limits: Limits) -> GateVerdict:
    requests, failures = counted([report for item in standings for report in item.reports])
    if not requests:
        return GateVerdict(Gate.ERRORS, Outcome.PASS, "", "no report carries a request since")
    before = baseline.failures / baseline.requests if baseline.requests else 0.0
    allowed = max(limits.error_rate, before)
    if allowed >= 1:
        return GateVerdict(Gate.ERRORS, Outcome.PASS, "", "not judged: every request failed before, too")
    text = f"{failures} of {requests} requests failed"
    expected = f"{gates.percent(allowed)} ({baseline.failures} of {baseline.requests} before)"
    return gates.sequential(Gate.ERRORS, text, failures, requests, allowed, 0, limits.alpha, expected)


def _latency(baseline: Baseline, standings: Sequence[Standing]) -> GateVerdict:
    before = {item.model: item.p50_us for item in baseline.medians}
    now = {item.model: item.p50_us for item in medians([report for one in standings for report in one.reports])}
    both = [(model, now[model], before[model]) for model in sorted(before.keys() & now.keys())]
    if not both:
        return GateVerdict(Gate.LATENCY, Outcome.PASS, "", "no report carries durations from before and since")
    said = "; ".join(f"{model}: median {after} us, {earlier} us before" for model, after, earlier in both)
    slower = any(after > SLOWER * earlier for _, after, earlier in both)
    outcome = Outcome.FAIL if slower else Outcome.PASS
    return GateVerdict(Gate.LATENCY, outcome, "median", f"{said}, at most {SLOWER:g} times as long allowed")
