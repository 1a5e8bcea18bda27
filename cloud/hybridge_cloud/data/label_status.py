"""How the labels of a model stand: which samples have one, which labels wait, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.data.dataset import DatasetShelf, chain
from hybridge_cloud.data.join import JoinCounts, LabelSet, Verdict, changed
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_rule import declared
from hybridge_cloud.data.labels import LabelShelf, load
from hybridge_cloud.data.walk import walk

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

MAX_DISAGREEMENTS = 20
"""Samples whose differing labels are listed; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A sample whose labels differ. ``said``: "LABEL by SOURCE (CONFIDENCE)" of each; ``counts``: the label, or ""."""

    sample_id: str
    said: tuple[str, ...]
    counts: str


@dataclass(frozen=True, slots=True)
class LabelStatus:
    """Labels and samples of a model.

    Attributes:
        rule: in words. labels: all there are. joined: samples and labels that met.
        waiting: labels whose sample has not come back. expired: those of them that are older than the window.
        by_source: labels that count, by who said them.
        changed: samples of the last dataset that have another label now, or none any more; the next dataset has it.
        refused_batches: batches that are not what they say; their samples are not counted.
    """

    rule: str
    labels: int
    imports: int
    joined: JoinCounts
    waiting: int
    expired: int
    by_source: dict[str, int]
    changed: int
    refused_batches: int
    disagreements: tuple[Disagreement, ...]


def label_status(bucket: Bucket, model: str, now_ms: int) -> LabelStatus:
    """Count by reading everything that came back, one batch at a time."""
    shelf = LabelShelf(bucket, model)
    known = shelf.refresh(declared(bucket, model))
    then, batches = _last(bucket, model)
    met: set[str] = set()
    sources: Counter[str] = Counter()
    disagreements: list[Disagreement] = []
    relabelled = 0
    refused: list[str] = []

    def verdicts() -> Iterator[Verdict]:
        nonlocal relabelled
        for row in walk(bucket, model, lambda error: refused.append(error.key)):
            sample, thing, captured = row.sample_id, row.thing, row.captured_at_ms
            verdict = known.judge(sample, thing, captured)
            met.update(() if not known.of(sample) else (sample,))
            if verdict.label is not None:
                sources[verdict.label.shown_source] += 1
            if verdict.disagree and len(disagreements) < MAX_DISAGREEMENTS:
                counts = verdict.label.label if verdict.label else ""
                said = sorted({_said(label) for label in known.of(sample)})
                disagreements.append(Disagreement(sample, tuple(said), counts))
            if row.batch.key in batches:
                relabelled += changed(then, known, thing, sample, captured)
            yield verdict

    joined = JoinCounts.of(verdicts())
    waiting = [label for label in known.all() if label.sample_id not in met]
    return LabelStatus(
        rule=known.rule.sentence(),
        labels=known.size,
        imports=len(shelf.entries),
        joined=joined,
        waiting=len(waiting),
        expired=sum(1 for label in waiting if 0 < label.said_at_ms < now_ms - known.rule.window_ms),
        by_source=dict(sorted(sources.items())),
        changed=relabelled,
        refused_batches=len(refused),
        disagreements=tuple(disagreements),
    )


def unknown_samples(bucket: Bucket, model: str, samples: set[str]) -> int:
    """How many of these sample ids have not come back."""
    left = set(samples)
    for row in walk(bucket, model, lambda _: None):
        left.discard(row.sample_id)
        if not left:
            break
    return len(left)


def _said(label: Label) -> str:
    return f"{label.label} by {label.shown_source} ({label.confidence:g})"


def _last(bucket: Bucket, model: str) -> tuple[LabelSet, frozenset[str]]:
    """The labels of the last dataset as it knew them, and the keys of the batches it trains on."""
    datasets = DatasetShelf(bucket, model).refresh()
    if not datasets:
        return LabelSet((), declared(bucket, model)), frozenset()
    last = datasets[-1]
    keys = frozenset(entry.key for link in chain(bucket, last) for entry in link.batches)
    return LabelSet(load(bucket, last.labels), last.rule), keys
