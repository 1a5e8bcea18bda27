"""What happens once per dataset, by conditional writes: being started, and being claimed by one execution. Format 1.

    runs/MODEL/dataset-NNNNNN/start.json       who starts it, then the execution id
    runs/MODEL/dataset-NNNNNN/claim.json       the one execution that works on it
    runs/MODEL/dataset-NNNNNN/duplicates/ID    an execution that came second, and ended

A starter can die between starting an execution and writing its id down, and CodePipeline promises no deduplication;
so a second execution is possible, and the claim is what makes it end without effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from hybridge_cloud.aws import pipeline as codepipeline
from hybridge_cloud.data.dataset import parse_key
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Conflict, Refused

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
START_LEASE_SECONDS = 120
"""A starter that has not written an execution id after this long is taken for dead."""
SEARCHED_EXECUTIONS = 50
"""How far back to look for an execution whose starter died before writing its id down."""
DATASET_VARIABLE = "DATASET"


class Duplicate(Refused):
    """Another execution works on this dataset. This one ends without effect."""

    code = "DUPLICATE"

    def __init__(self, dataset: str, execution: str, winner: str) -> None:
        super().__init__(
            f"DUPLICATE: {dataset} was claimed by execution {winner}; execution {execution} ends without effect."
        )
        self.winner = winner


class StartOutcome(Enum):
    """What became of an attempt to start a dataset's execution."""

    STARTED = "started"
    FOUND = "found"
    ALREADY = "already started"
    BUSY = "being started by somebody else"


@dataclass(frozen=True, slots=True)
class Start:
    """The record of a start; ``execution`` is "" until its id is known. ``at_ms``: the starter's clock."""

    dataset: str
    starter: str
    at_ms: int
    execution: str = ""

    def to_bytes(self) -> bytes:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return canonical({"format": FORMAT, **fields})

    @classmethod
    def from_bytes(cls, data: bytes) -> Start:
        reader = parse(data, "start record")
        reader.format(FORMAT)
        start = cls(reader.text("dataset"), reader.text("starter"), reader.integer("at_ms"), reader.text("execution"))
        reader.close()
        return start


def record_key(dataset_key: str, file: str) -> str:
    """The key of a record of a dataset's run."""
    model, number = parse_key(dataset_key)
    return names.run_key(model, f"dataset-{number:06d}", file)


def read_start(bucket: Bucket, dataset_key: str) -> tuple[Start, str] | None:
    """The start record and its ETag, or None."""
    key = record_key(dataset_key, "start.json")
    if not bucket.exists(key):
        return None
    data, etag = bucket.get_with_etag(key)
    return Start.from_bytes(data), etag


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts the execution of a dataset. ``name`` tells starters apart; ``now_ms`` is their clock."""

    bucket: Bucket
    pipeline: str
    name: str
    now_ms: Callable[[], int]
    lease_seconds: float = START_LEASE_SECONDS

    def start(self, dataset_key: str) -> tuple[StartOutcome, str]:
        """Start it unless it is started or being started. Returns the outcome and the execution's id, "" where BUSY."""
        key = record_key(dataset_key, "start.json")
        intent = Start(dataset_key, self.name, self.now_ms())
        found = read_start(self.bucket, dataset_key)
        try:
            if found is None:
                etag = self.bucket.put(key, intent.to_bytes(), only_if_absent=True)
            elif found[0].execution:
                return StartOutcome.ALREADY, found[0].execution
            elif self.now_ms() - found[0].at_ms < self.lease_seconds * 1000:
                return StartOutcome.BUSY, ""
            else:
                etag = self.bucket.put(key, intent.to_bytes(), if_match=found[1])
        except Conflict:
            return StartOutcome.BUSY, ""
        if found is not None:
            known = self._search(dataset_key)
            if known:
                self._write_down(key, intent, known, etag)
                return StartOutcome.FOUND, known
        execution = codepipeline.start(self.pipeline, {DATASET_VARIABLE: dataset_key})
        self._write_down(key, intent, execution, etag)
        return StartOutcome.STARTED, execution

    def _write_down(self, key: str, intent: Start, execution: str, etag: str) -> None:
        done = Start(intent.dataset, intent.starter, intent.at_ms, execution)
        try:
            self.bucket.put(key, done.to_bytes(), if_match=etag)
        except Conflict:
            pass  # taken over while we were slow: whoever did starts or finds one too, and the claim decides

    def _search(self, dataset_key: str) -> str:
        """The execution a dead starter left, or ""."""
        for execution in codepipeline.executions(self.pipeline, SEARCHED_EXECUTIONS):
            if execution.variables.get(DATASET_VARIABLE) == dataset_key:
                return execution.execution_id
        return ""


def claim(bucket: Bucket, dataset_key: str, execution: str) -> None:
    """Claim a dataset for an execution. The same execution may claim again, as a stage that is retried does.

    Raises:
        Duplicate: another execution has it; this one was counted and must end.
    """
    if not names.sample_id(execution):
        raise Refused("An execution needs an id to claim a dataset.")
    key = record_key(dataset_key, "claim.json")
    try:
        bucket.put(key, canonical({"format": FORMAT, "execution": execution}), only_if_absent=True)
    except Conflict:
        check_claim(bucket, dataset_key, execution)


def check_claim(bucket: Bucket, dataset_key: str, execution: str) -> None:
    """Make sure that the dataset is this execution's. Raises Duplicate, or Refused where nobody claimed it."""
    winner = claimed_by(bucket, dataset_key)
    if not winner:
        raise Refused(f"{dataset_key} was not claimed.", "Run the quality stage first; it claims the dataset.")
    if winner != execution:
        bucket.put(record_key(dataset_key, f"duplicates/{execution}"), canonical({"winner": winner}))
        raise Duplicate(dataset_key, execution, winner)


def claimed_by(bucket: Bucket, dataset_key: str) -> str:
    """The execution that has the dataset, or ""."""
    key = record_key(dataset_key, "claim.json")
    if not bucket.exists(key):
        return ""
    reader = parse(bucket.get(key), "claim")
    reader.format(FORMAT)
    execution = reader.text("execution")
    reader.close()
    return execution


def duplicates(bucket: Bucket, dataset_key: str) -> int:
    """How many executions of this dataset came second and ended without effect."""
    return sum(1 for _ in bucket.list(record_key(dataset_key, "duplicates/")))
