"""From slots to figures: medians over rounds, ratios of ours to each peer, goals and what was reached."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peers.rounds import CALLERS, Slot, Started

ONE, MANY = CALLERS
TCP, UNIX, DIRECT = "ours, unary, TCP", "ours, unary, Unix socket", "ours, direct socket"
_PEERS = (("KServe", 0.85, 0.7), ("MLServer", 0.85, 0.7), ("LitServe", 0.5, 0.0), ("BentoML", 0.5, 0.0),
          ("PyTriton", 0.3, 0.0))  # fmt: skip
MOST_STREAMING = 0.6
MOST_OF_IN_PROCESS = 1.15
MOST_START_S = 2.0
MOST_RESIDENT_MB = 150.0
MODELS_IN_GOALS = 3


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one row and model; medians over rounds. ``cpu_us``: of the server's whole tree, per request."""

    row: str
    model: str
    p50_us: float
    p99_us: float
    many_per_second: float
    many_p50_us: float
    cpu_us: float
    many_cpu_us: float
    generator_many_cpu_us: float
    failed: int


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise: ``reached`` at most ``goal``; None where it could not be measured."""

    what: str
    goal: float
    reached: float | None
    stretch: float = 0.0

    @property
    def verdict(self) -> str:
        if self.reached is None:
            return "not measured"
        if self.stretch and self.reached <= self.stretch:
            return "reached, stretch too"
        return "reached" if self.reached <= self.goal else "MISSED"


def figures(slots: Sequence[Slot]) -> list[Figures]:
    """Of every row and model that was measured at both numbers of callers, in the order they came."""
    found = []
    for row, model in dict.fromkeys((slot.row, slot.model) for slot in slots):
        one, many = (
            [slot for slot in slots if (slot.row, slot.model, slot.callers) == (row, model, callers)]
            for callers in CALLERS
        )
        if not one or not many:
            continue
        found.append(
            Figures(
                row=row,
                model=model,
                p50_us=round(statistics.median(slot.measured.p50_us for slot in one), 1),
                p99_us=round(statistics.median(slot.measured.p99_us for slot in one), 1),
                many_per_second=round(statistics.median(slot.measured.per_second for slot in many), 1),
                many_p50_us=round(statistics.median(slot.measured.p50_us for slot in many), 1),
                cpu_us=_per_request([(slot.server_cpu_s, slot) for slot in one]),
                many_cpu_us=_per_request([(slot.server_cpu_s, slot) for slot in many]),
                generator_many_cpu_us=_per_request([(slot.measured.generator_cpu_s, slot) for slot in many]),
                failed=sum(slot.measured.failed for slot in (*one, *many)),
            )
        )
    return found


def _per_request(costs: Sequence[tuple[float, Slot]]) -> float:
    return round(1e6 * sum(cost for cost, _ in costs) / max(1, sum(slot.measured.asked for _, slot in costs)), 1)


def goals(found: Sequence[Figures], started: Sequence[Started], models: int) -> list[Goal]:
    """What was promised of ours, and what came out."""
    p50 = {(one.row, one.model): one.p50_us for one in found}

    def ratio(ours: str, other: str, model: str = "tiny") -> float | None:
        if (ours, model) not in p50 or (other, model) not in p50:
            return None
        return round(p50[ours, model] / p50[other, model], 3)

    made = []
    for peer, goal, stretch in _PEERS:
        for ours in (TCP, UNIX):
            made.append(Goal(f"tiny, p50 at one caller, {ours} / {peer}", goal, ratio(ours, peer), stretch))
    for way, unary in (("TCP", TCP), ("Unix socket", UNIX)):
        streaming = ratio(f"ours, streaming, {way}", unary)
        made.append(Goal(f"tiny, p50 at one caller, streaming / unary, {way}", MOST_STREAMING, streaming))
    for ours in (TCP, UNIX, DIRECT):
        reached = ratio(ours, "in-process", "mobilenetv2")
        made.append(Goal(f"mobilenetv2, p50 at one caller, {ours} / in-process", MOST_OF_IN_PROCESS, reached))
    ours_started = next((one for one in started if one.contender.name == "ours" and not one.reason), None)
    whole = ours_started is not None and models == MODELS_IN_GOALS
    start = ours_started.first_answer_s if whole and ours_started is not None else None
    begun = ours_started.memory_at_first.proportional if whole and ours_started is not None else None
    ended = ours_started.memory.proportional if whole and ours_started is not None else None
    made.append(Goal("three models, start to first answer of each, s", MOST_START_S, start))
    # Ours is three processes, and pages that they share are in memory once.
    made.append(Goal("three models, memory at the first answers, shared pages once, MB", MOST_RESIDENT_MB, begun))
    made.append(Goal("three models, memory after all rounds, shared pages once, MB", MOST_RESIDENT_MB, ended))
    return made


def lines(found: Sequence[Figures], started: Sequence[Started], made: Sequence[Goal]) -> list[str]:
    """The whole report, for people."""
    text = []
    for model in dict.fromkeys(one.model for one in found):
        rows = [one for one in found if one.model == model]
        p50, rate = ({one.row: value(one) for one in rows} for value in (_p50, _rate))
        text += ["", f"{model}: 1 caller and {MANY}; ratios are ours (unary) / the row's"]
        text.append(
            f"{'':30} {'p50 us':>9} {'TCP /':>7} {'Unix /':>7} {'p99 us':>9} {'CPU us':>8}"
            f" {'req/s @16':>10} {'TCP /':>7} {'CPU us':>8} {'failed':>6}"
        )
        for one in rows:
            text.append(
                f"{one.row:30} {one.p50_us:9.0f} {_ratio(p50.get(TCP), one.p50_us)} {_ratio(p50.get(UNIX), one.p50_us)}"
                f" {one.p99_us:9.0f} {one.cpu_us:8.0f} {one.many_per_second:10.0f}"
                f" {_ratio(rate.get(TCP), one.many_per_second)} {one.many_cpu_us:8.0f} {one.failed:6}"
            )
    text += ["", f"{'':30} {'start s':>9} {'RSS MB':>9} {'RSS end':>9} {'PSS end':>9} {'idle CPU':>9}  versions"]
    for contender in started:
        if not contender.reason:
            versions = ", ".join(f"{name} {number}" for name, number in contender.contender.versions().items())
            memory, begun = contender.memory, contender.memory_at_first
            text.append(
                f"{contender.contender.name:30} {contender.first_answer_s:9.2f} {begun.resident:9.0f}"
                f" {memory.resident:9.0f} {memory.proportional:9.0f} {contender.idle_cpu:9.1%}  {versions}"
            )
    for contender in started:
        if contender.reason:
            text.append(f"{contender.contender.name}: not measured: {contender.reason}")
        text += [f"{row}: not measured: {reason}" for row, reason in contender.broken.items()]
    text += ["", f"{'goal':72} {'at most':>8} {'reached':>8}"]
    for goal in made:
        reached = "" if goal.reached is None else f"{goal.reached:.2f}"
        text.append(f"{goal.what:72} {goal.goal:8.2f} {reached:>8}  {goal.verdict}")
    return text


def _p50(one: Figures) -> float:
    return one.p50_us


def _rate(one: Figures) -> float:
    return one.many_per_second


def _ratio(ours: float | None, row: float) -> str:
    return f"{ours / row:7.2f}" if ours is not None and row else f"{'':>7}"
