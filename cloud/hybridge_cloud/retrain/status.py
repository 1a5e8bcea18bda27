"""How a model's retraining stands: what came back, which datasets there are, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.aws import pipeline as codepipeline
from hybridge_cloud.aws.pipeline import Execution
from hybridge_cloud.data import quarantine
from hybridge_cloud.data.dataset import Dataset, DatasetShelf
from hybridge_cloud.data.join import JoinCounts
from hybridge_cloud.data.label_rule import declared
from hybridge_cloud.data.labels import LabelShelf
from hybridge_cloud.retrain import claim
from hybridge_cloud.retrain.arrivals import Arrival, Arrivals
from hybridge_cloud.retrain.claim import DATASET_VARIABLE
from hybridge_cloud.retrain.verdicts import Evaluated, PublishedVersion, Quality
from hybridge_edge.contract import names

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

MAX_COUNTED_BATCHES = 1_000_000
MAX_LISTED_EXECUTIONS = 100


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """One dataset and its run: ``execution`` works on it; ``duplicates`` executions ended without effect."""

    dataset: Dataset
    execution: str
    claimed_by: str
    duplicates: int
    quality: Quality | None
    evaluated: Evaluated | None
    published: PublishedVersion | None

    @property
    def stands(self) -> str:
        """In one word: how far it came."""
        if self.published is not None:
            return "published"
        if self.evaluated is not None:
            return "judged better" if self.evaluated.comparison.promote else "not promoted"
        if self.quality is not None:
            return "training" if self.quality.accepted else "refused"
        if self.claimed_by:
            return "claimed"
        return "started" if self.execution else "waiting"


@dataclass(frozen=True, slots=True)
class ReturnedCounts:
    """Everything devices sent of a model: samples, each once; rows that repeated one; what is labelled.

    Attributes:
        label_sources: who said what the labelled samples are, sorted. joined: what became of all labels of them.
        by_device: samples per device. quarantined: batches that were refused.
    """

    batches: int
    samples: int
    duplicates: int
    labelled: int
    label_sources: tuple[str, ...]
    conflicts: int
    by_device: dict[str, int]
    quarantined: int
    joined: JoinCounts


def datasets(bucket: Bucket, model: str) -> tuple[DatasetStatus, ...]:
    """Every dataset of a model, by number."""
    found = []
    for dataset in DatasetShelf(bucket, model).refresh():
        start = claim.read_start(bucket, dataset.key)
        found.append(
            DatasetStatus(
                dataset,
                start[0].execution if start else "",
                claim.claimed_by(bucket, dataset.key),
                claim.duplicates(bucket, dataset.key),
                Quality.read(bucket, dataset.key),
                Evaluated.read(bucket, dataset.key),
                PublishedVersion.read(bucket, dataset.key),
            )
        )
    return tuple(found)


def executions(pipeline: str, limit: int = MAX_LISTED_EXECUTIONS) -> dict[str, tuple[Execution, ...]]:
    """The latest ``limit`` executions of a pipeline by the dataset they were started for, newest first."""
    found: dict[str, list[Execution]] = {}
    for execution in codepipeline.executions(pipeline, limit):
        found.setdefault(execution.variables.get(DATASET_VARIABLE, ""), []).append(execution)
    return {key: tuple(listed) for key, listed in found.items()}


def returned_samples(bucket: Bucket, model: str) -> tuple[Arrival, ...]:
    """Every batch in the bucket that is what it says, whether or not a dataset holds it; the others are quarantined."""
    arrivals = Arrivals(bucket, model, MAX_COUNTED_BATCHES)
    arrivals.sweep()
    return arrivals.all()


def returned(bucket: Bucket, model: str) -> ReturnedCounts:
    """Count everything that came back, by reading it."""
    batches = returned_samples(bucket, names.model_name(model))
    known = LabelShelf(bucket, model).refresh(declared(bucket, model))
    samples = {identity: (sample, at) for batch in batches for identity, sample, at in batch.rows()}
    verdicts = [known.judge(sample, thing, at) for (thing, _, _), (sample, at) in samples.items()]
    joined = JoinCounts.of(verdicts)
    by_device: dict[str, int] = {}
    for thing, _, _ in samples:
        by_device[thing] = by_device.get(thing, 0) + 1
    rows = sum(len(batch.identities) for batch in batches)
    return ReturnedCounts(
        batches=len(batches),
        samples=len(samples),
        duplicates=rows - len(samples),
        labelled=joined.labelled,
        label_sources=tuple(sorted({verdict.label.shown_source for verdict in verdicts if verdict.label is not None})),
        conflicts=joined.conflicts,
        by_device=dict(sorted(by_device.items())),
        quarantined=len(quarantine.list_all(bucket, model)),
        joined=joined,
    )
