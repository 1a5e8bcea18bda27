"""What a wave is judged by: exact tests on counts that its devices measured themselves.

Probes are one fixed set of rows, the same on every device, so each device is judged for itself, once: an exact binomial
test at alpha divided by the number of devices. Requests come in for as long as one looks, so their counts are pooled
over the wave and tested in a way that stays right however often one looks (`binomial.always_valid`). A count above its
limit that is too small to be sure HOLDs, as does everything below its minimum: what cannot be judged never passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybridge_cloud.rollout import binomial
from hybridge_cloud.rollout.plan import Limits, Plan
from hybridge_cloud.rollout.standing import End, Standing
from hybridge_cloud.rollout.verdict import Gate, GateVerdict, Outcome
from hybridge_edge.contract.report import SLOWER, Evidence

MINIMUM_TO_FAIL = 20
"""Counts a pooled gate needs before it may fail a wave: a hiccup at the switch does not speak for a model."""
JUDGED_SHARE = 0.5
"""Of the devices that run the version, those that must have measured it against the one before."""
CONFIDENCE = 0.95
"""Of the upper bound on the disagreement that was measured at evaluation."""
MAX_EXPECTED = 0.5
"""A comparison that allows this much disagreement, margin included, tells nothing."""
NAMED = 3
"""Devices that a sentence names."""


def judge(plan: Plan, standings: Sequence[Standing], late: bool) -> tuple[GateVerdict, ...]:
    """Every gate's verdict on a wave whose version answers, in the order of `Gate`.

    Args:
        late: the wave's deadline is over: whatever still HOLDs has failed.
    """
    limits = plan.limits
    running = [(item.thing, item.evidence) for item in standings if item.evidence is not None]
    done = sum(item.end is End.DONE for item in standings)
    paired = [(thing, evidence) for thing, evidence in running if evidence.against == plan.previous_digest]
    verdicts = (
        activation(standings, limits, late),
        _pooled(Gate.ERRORS, running, limits, "requests failed", limits.error_rate, lambda seen: seen.errors),
        _pooled(Gate.GUARDS, running, limits, "answers broke a guard", limits.guard_rate, lambda seen: seen.guarded),
        latency(plan, paired, done),
        probes(plan, paired, done),
        _live(plan, paired),
    )
    return tuple(ended(verdict, limits) if late else verdict for verdict in verdicts)


def expected_disagreement(plan: Plan) -> tuple[float, str]:
    """The share of rows that may be answered otherwise than before, margin included, and how it is made up.

    Returns:
        A share above MAX_EXPECTED, or 2.0 and why, where the package's comparison cannot serve.
    """
    comparison = plan.comparison
    if comparison is None:
        return 2.0, "the package was not compared with the version it replaces at evaluation"
    if comparison.against != plan.previous_digest:
        return 2.0, f"the package was compared with another version than {plan.previous_version}, which runs"
    bound = binomial.upper_bound(comparison.disagreed, comparison.rows, CONFIDENCE)
    margin = plan.limits.disagreement_margin
    return bound + margin, f"{percent(bound)} + {percent(margin)} expected"


def activation(standings: Sequence[Standing], limits: Limits, late: bool, how: str = "run it") -> GateVerdict:
    def of(*ends: End) -> list[Standing]:
        return [item for item in standings if item.end in ends]

    done, bad = of(End.DONE), of(End.REFUSED, End.FAILED)
    missing, offline = of(End.PENDING, End.SILENT), of(End.OFFLINE)
    counts = f"{len(done)} of {len(standings)} devices {how}"
    if offline:
        counts += f", {len(offline)} offline"
    lost = [*bad, *missing] if late else bad
    if len(lost) > limits.failed_devices:
        reason = f"{counts}; {len(lost)} did not, {limits.failed_devices} allowed: {named(lost)}"
        return GateVerdict(Gate.ACTIVATION, Outcome.FAIL, "count", reason)
    if missing and not late:
        return GateVerdict(Gate.ACTIVATION, Outcome.HOLD, "count", f"{counts}; waiting for {named(missing)}")
    if standings and not done:
        return GateVerdict(Gate.ACTIVATION, Outcome.HOLD, "count", f"{counts}; no device speaks for it")
    return GateVerdict(Gate.ACTIVATION, Outcome.PASS, "count", counts + (f"; not {named(lost)}" if lost else ""))


_Running = Sequence[tuple[str, Evidence]]


def _pooled(
    gate: Gate, running: _Running, limits: Limits, what: str, allowed: float, count: Callable[[Evidence], int]
) -> GateVerdict:
    total = sum(evidence.requests for _, evidence in running)
    bad = min(total, sum(count(evidence) for _, evidence in running))
    return sequential(gate, f"{bad} of {total} {what}", bad, total, allowed, limits.minimum_requests, limits.alpha)


def sequential(
    gate: Gate, counted: str, bad: int, total: int, allowed: float, minimum: int, alpha: float, expected: str = ""
) -> GateVerdict:
    test = "sequential binomial"
    rate = f"{counted} ({percent(bad / total)})" if total else counted
    rate += f", at most {expected or percent(allowed) + ' allowed'}"
    p = binomial.always_valid(bad, total, allowed)
    if total >= MINIMUM_TO_FAIL and p < alpha:
        return GateVerdict(gate, Outcome.FAIL, test, f"{rate}, {test} {_p(p)}")
    if total < minimum:
        return GateVerdict(gate, Outcome.HOLD, test, f"{rate}; {minimum} are needed to judge")
    if total and bad / total > allowed:
        return GateVerdict(gate, Outcome.HOLD, test, f"{rate}, {test} {_p(p)}: too few to be sure")
    return GateVerdict(gate, Outcome.PASS, test, f"{rate}, {test} {_p(p)}")


def latency(plan: Plan, paired: _Running, done: int) -> GateVerdict:
    share = plan.limits.slower_share

    def sentence(thing: str, seen: Evidence) -> str:
        return (
            f"{thing}: {seen.probes_slower} of {seen.probes} paired runs took more than {SLOWER:g} times as long, at "
            f"most {percent(share)} allowed; median {seen.probe_us} us, {seen.probe_us_before} us before"
        )

    return _each_device(Gate.LATENCY, "sign test", plan, paired, done, share, lambda seen: seen.probes_slower, sentence)


def probes(plan: Plan, paired: _Running, done: int) -> GateVerdict:
    if (skipped := not_compared(Gate.PROBES, plan)) is not None:
        return skipped
    allowed, made_up = expected_disagreement(plan)

    def sentence(thing: str, seen: Evidence) -> str:
        rate = percent(seen.probes_disagreed / seen.probes)
        return f"{thing}: {seen.probes_disagreed} of {seen.probes} rows ({rate}), at most {made_up}"

    return _each_device(
        Gate.PROBES, "exact binomial", plan, paired, done, allowed, lambda seen: seen.probes_disagreed, sentence
    )


def _live(plan: Plan, paired: _Running) -> GateVerdict:
    if (skipped := not_compared(Gate.LIVE, plan)) is not None:
        return skipped
    total = sum(evidence.live for _, evidence in paired)
    if not total and not plan.limits.minimum_live:
        return GateVerdict(Gate.LIVE, Outcome.PASS, "", "no live rows were compared, and none are asked for")
    allowed, made_up = expected_disagreement(plan)
    bad = min(total, sum(evidence.live_disagreed for _, evidence in paired))
    counted = f"{bad} of {total} rows"
    limits = plan.limits
    return sequential(Gate.LIVE, counted, bad, total, allowed, limits.minimum_live, limits.alpha, made_up)


def not_compared(gate: Gate, plan: Plan) -> GateVerdict | None:
    """A verdict where disagreement is not to be judged, or cannot be."""
    if plan.is_first:
        return GateVerdict(gate, Outcome.PASS, "", "there is no version before to compare with")
    allowed, why = expected_disagreement(plan)
    if allowed <= MAX_EXPECTED:
        return None
    if not plan.limits.minimum_probes:
        return GateVerdict(gate, Outcome.PASS, "", f"not judged, as minimum_probes is 0: {why}")
    said = why if allowed > 1.5 else f"a bound of {why} tells nothing"
    return GateVerdict(gate, Outcome.HOLD, "", f"cannot be judged: {said}")


def _each_device(
    gate: Gate,
    test: str,
    plan: Plan,
    paired: _Running,
    done: int,
    allowed: float,
    count: Callable[[Evidence], int],
    sentence: Callable[[str, Evidence], str],
) -> GateVerdict:
    limits = plan.limits
    if plan.is_first:
        return GateVerdict(gate, Outcome.PASS, "", "there is no version before to compare with")
    judged = [(thing, seen) for thing, seen in paired if seen.probes >= max(1, limits.minimum_probes)]
    tested = sorted(
        (binomial.at_least(min(count(seen), seen.probes), seen.probes, allowed), thing, seen) for thing, seen in judged
    )
    failed = [(p, thing, seen) for p, thing, seen in tested if p < limits.alpha / len(tested)]
    if failed:
        p, thing, seen = failed[0]
        more = f" and {len(failed) - 1} devices more" if len(failed) > 1 else ""
        return GateVerdict(gate, Outcome.FAIL, test, f"{sentence(thing, seen)}, {test} {_p(p)}{more}")
    if not judged and not limits.minimum_probes:
        return GateVerdict(gate, Outcome.PASS, "", "no probes were answered, and none are asked for")
    of = f"{len(judged)} of {done} devices answered {limits.minimum_probes} probes or more with both versions"
    if not judged or (limits.minimum_probes and len(judged) < JUDGED_SHARE * done):
        return GateVerdict(gate, Outcome.HOLD, test, f"{of}; half of them are needed")
    p, thing, seen = tested[0]
    return GateVerdict(gate, Outcome.PASS, test, f"{of}; the most on {sentence(thing, seen)}, {test} {_p(p)}")


def ended(verdict: GateVerdict, limits: Limits) -> GateVerdict:
    if verdict.outcome is not Outcome.HOLD:
        return verdict
    reason = f"not judged within {limits.deadline_seconds} s: {verdict.reason}"
    return GateVerdict(verdict.gate, Outcome.FAIL, verdict.test, reason)


def named(standings: Sequence[Standing]) -> str:
    said = "; ".join(f"{item.thing} {item.why}" for item in standings[:NAMED])
    return said + (f"; and {len(standings) - NAMED} more" if len(standings) > NAMED else "")


def percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share >= 0.01 or share == 0 else f"{share * 100:.2g} %"


def _p(p: float) -> str:
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"
