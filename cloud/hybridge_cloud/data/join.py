"""Labels and samples put together by sample id: a pure function of both sets and of the rule, in whatever order.

Times are by the clocks of those who wrote them. A device may boot in 1970, so a time that cannot be is not believed:
such a label joins without a window, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import Enum

from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_edge.contract.document import Reader

EARLIEST_MS = 1_577_836_800_000
"""2020-01-01: no clock that was set says less."""


class Outcome(Enum):
    """What a sample has."""

    LABELLED = "labelled"
    NONE = "no label"
    CONFLICT = "labels that disagree and nothing decides between them"
    LATE = "labels outside the window only"
    UNSURE = "labels below the minimum confidence only"
    FOREIGN = "labels that another device said only"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the labels of one sample.

    Attributes:
        label: the one that counts, or None. disagree: whether labels that could count name different classes.
        late, unsure, foreign: how many of its labels do not count, and why.
        unclocked: how many count though their time, or the sample's, cannot be.
    """

    outcome: Outcome
    label: Label | None = None
    disagree: bool = False
    late: int = 0
    unsure: int = 0
    foreign: int = 0
    unclocked: int = 0


UNLABELLED = Verdict(Outcome.NONE)


def judge(labels: Iterable[Label], thing: str, captured_at_ms: int, rule: LabelRule) -> Verdict:
    """Which of a sample's labels counts: the surest, then the best source, then the newest, then the last imported.

    Args:
        labels: of one sample id, each any number of times. thing, captured_at_ms: of the sample.
    """
    late = unsure = foreign = unclocked = 0
    able: list[Label] = []
    seen: set[str] = set()
    for label in set(labels):
        if label.thing not in ("", thing):
            foreign += 1
            continue
        believed = captured_at_ms >= EARLIEST_MS and label.said_at_ms >= EARLIEST_MS
        if believed and abs(label.said_at_ms - captured_at_ms) > rule.window_ms:
            late += 1
            continue
        seen.add(label.label)
        if label.confidence < rule.minimum_confidence:
            unsure += 1
            continue
        unclocked += not believed
        able.append(label)
    best = max((_merit(label, rule) for label in able), default=None)
    chosen = [label for label in able if _merit(label, rule) == best]
    winner = None
    if len({label.label for label in chosen}) == 1:
        winner = min(chosen, key=lambda label: (label.thing, label.source))
        outcome = Outcome.LABELLED
    elif chosen:
        outcome = Outcome.CONFLICT
    else:
        reasons = ((Outcome.LATE, late), (Outcome.UNSURE, unsure), (Outcome.FOREIGN, foreign))
        outcome = next((found for found, count in reasons if count), Outcome.NONE)
    return Verdict(outcome, winner, len(seen) > 1, late, unsure, foreign, unclocked)


def _merit(label: Label, rule: LabelRule) -> tuple[float, int, int, int]:
    return label.confidence, -rule.rank(label), label.said_at_ms, label.imported_at_ms


class LabelSet:
    """Labels by sample id, and the rule that chooses between them."""

    __slots__ = ("_by_sample", "rule", "size")

    def __init__(self, labels: Iterable[Label], rule: LabelRule) -> None:
        self._by_sample: dict[str, list[Label]] = {}
        self.rule = rule
        self.size = 0
        for label in labels:
            self._by_sample.setdefault(label.sample_id, []).append(label)
            self.size += 1

    def judge(self, sample_id: str, thing: str, captured_at_ms: int) -> Verdict:
        found = self._by_sample.get(sample_id)
        return UNLABELLED if found is None else judge(found, thing, captured_at_ms, self.rule)

    def of(self, sample_id: str) -> tuple[Label, ...]:
        """Every label of a sample id, whether it counts or not."""
        return tuple(self._by_sample.get(sample_id, ()))

    def all(self) -> Iterator[Label]:
        for found in self._by_sample.values():
            yield from found


def changed(then: LabelSet, now: LabelSet, thing: str, sample_id: str, captured_at_ms: int) -> bool:
    """Whether a sample that had a label has another one now, or none any more."""
    before, after = (known.judge(sample_id, thing, captured_at_ms).label for known in (then, now))
    return before is not None and (after is None or after.label != before.label)


@dataclass(frozen=True, slots=True)
class JoinCounts:
    """Where labels and samples went: samples = labelled + unlabelled.

    Attributes:
        conflicts: samples without a label because nothing decides between theirs. disagreeing: samples whose labels
            differ, whether or not one counts.
        late, unsure, foreign, unclocked: labels, see `Verdict`.
    """

    samples: int = 0
    labelled: int = 0
    unlabelled: int = 0
    conflicts: int = 0
    disagreeing: int = 0
    late: int = 0
    unsure: int = 0
    foreign: int = 0
    unclocked: int = 0

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> JoinCounts:
        totals = dict.fromkeys((field.name for field in fields(cls)), 0)
        for verdict in verdicts:
            totals["samples"] += 1
            totals["labelled"] += verdict.label is not None
            totals["conflicts"] += verdict.outcome is Outcome.CONFLICT
            if verdict is not UNLABELLED:
                for name in ("late", "unsure", "foreign", "unclocked"):
                    totals[name] += getattr(verdict, name)
                totals["disagreeing"] += verdict.disagree
        totals["unlabelled"] = totals["samples"] - totals["labelled"]
        return cls(**totals)

    def to_json(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def read(cls, reader: Reader) -> JoinCounts:
        return cls(**{name: reader.integer(name) for name in cls.__slots__})

    def remarks(self) -> str:
        """What of it is worth a look, each with its count, or ""."""
        said: Mapping[str, int] = {
            "late labels": self.late,
            "samples whose labels disagree": self.disagreeing,
            "of them undecided": self.conflicts,
            "unsure labels left out": self.unsure,
            "labels of another device's samples left out": self.foreign,
            "labels joined without a believable time": self.unclocked,
        }
        return ", ".join(f"{count} {what}" for what, count in said.items() if count)
