"""The gate: events of new batches in, one started execution per numbered dataset out. Runs any number of times at once.

Everything that must happen once is decided by a conditional write in S3, so a gate keeps nothing it could lose: killed
at any point and started again, it sweeps the bucket, finds what it had and goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.aws.events import object_created
from hybridge_cloud.data.dataset import Dataset, DatasetShelf
from hybridge_cloud.data.label_rule import LabelRule, declared
from hybridge_cloud.data.labels import LabelShelf
from hybridge_cloud.retrain.arrivals import Arrivals, Group
from hybridge_cloud.retrain.claim import Starter, StartOutcome
from hybridge_cloud.retrain.decision import Counts, Decision, Policy, decide
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from hybridge_cloud.aws.queue import Message, Queue
    from hybridge_cloud.aws.s3 import Bucket

WAIT_SECONDS = 2
"""How long a turn waits for the first event."""
MAX_RECEIVES = 50
"""Receives in one turn before it is decided again."""
SWEEP_SECONDS = 300
LOST_RACES_AT_MOST = 20
"""Times in one turn that another gate may take the next number first."""
MAX_PAUSE_SECONDS = 60
"""The longest pause after the account did not answer."""
_DONE = frozenset({StartOutcome.STARTED, StartOutcome.FOUND, StartOutcome.ALREADY})


@dataclass(frozen=True, slots=True)
class Started:
    """A dataset whose execution is known, and whether this gate started it."""

    dataset: Dataset
    execution: str
    here: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did: datasets whose execution became known, and the decision on each features digest."""

    started: tuple[Started, ...]
    decisions: tuple[Decision, ...]


class Gate:
    """One gate of one model. ``tell`` gets a sentence whenever there is something new to say."""

    def __init__(
        self, bucket: Bucket, queue: Queue, model: str, policy: Policy, starter: Starter, tell: Callable[[str], None]
    ) -> None:
        self._bucket = bucket
        self._queue = queue
        self._policy = policy
        self._starter = starter
        self._tell = tell
        self._shelf = DatasetShelf(bucket, model)
        self._known: set[str] = set()
        self._labels = LabelShelf(bucket, model)
        self._last_said = ""
        self._told: set[str] = set()
        self.arrivals = Arrivals(bucket, model)

    def run(self, stop: threading.Event, *, until_started: bool = False, sweep_seconds: float = SWEEP_SECONDS) -> bool:
        """Turn until ``stop`` is set, or with ``until_started`` until this gate started an execution.

        Returns:
            Whether this gate started an execution.
        """
        next_sweep, pause, started = 0.0, 1.0, False
        while not stop.is_set():
            try:
                if time.monotonic() >= next_sweep:
                    self.sweep()
                    next_sweep = time.monotonic() + sweep_seconds
                self.take_events(WAIT_SECONDS)
                turn = self.turn()
            except Unavailable as error:
                self._say(str(error))
                stop.wait(pause)
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
                continue
            pause = 1.0
            started = started or any(found.here for found in turn.started)
            if until_started and started:
                break
        return started

    def sweep(self) -> None:
        """Look at the whole bucket for batches whose events were lost."""
        self.arrivals.settle(self._shelf.refresh())
        self.arrivals.sweep()

    def take_events(self, wait_seconds: int) -> int:
        """Take in what the queue has, and return how many messages were dealt with."""
        dealt = 0
        for _ in range(MAX_RECEIVES):
            messages = self._queue.receive(wait_seconds if dealt == 0 else 0)
            if not messages:
                break
            # Removed only once its batch is taken in; a gate that dies in between sweeps when it comes back.
            mine = tuple(message for message in messages if self._take(message))
            self._queue.remove(mine)
            dealt += len(mine)
            if not mine:
                break
        return dealt

    def _take(self, message: Message) -> bool:
        """Whether the message was dealt with; another model's batch is left for that model's gate."""
        event = object_created(message.body)
        parsed = names.parse_batch_manifest_key(event.key) if event and event.bucket == self._bucket.name else None
        if event is None or parsed is None:
            return True
        if parsed[1] != self._shelf.model:
            return False
        self.arrivals.add(event.key)
        return True

    def turn(self) -> Turn:
        """Start what is not started, then decide on what is new, and start that."""
        for key, reason in self.arrivals.refused.items():
            if key not in self._told:
                self._told.add(key)
                self._tell(f"Quarantined {key}: {reason}.")
        started: list[Started] = []
        for _ in range(LOST_RACES_AT_MOST):
            datasets = self._shelf.refresh()
            self.arrivals.settle(datasets)
            started += [found for dataset in datasets if (found := self._start(dataset)) is not None]
            decisions = []
            known = self._labels.refresh(declared(self._bucket, self._shelf.model))
            try:
                for group in self.arrivals.groups(known):
                    decision = self._decide(group, datasets)
                    decisions.append(decision)
                    if decision.train:
                        dataset = self._number(group, datasets, known.rule)
                        datasets = (*datasets, dataset)
                        found = self._start(dataset)
                        started += [found] if found is not None else []
            except Conflict:
                continue  # another gate took the number: see what it took, and decide again on the rest
            self._say(" ".join(decision.reason for decision in decisions) or "No new samples.")
            return Turn(tuple(started), tuple(decisions))
        raise Unavailable("Other gates took every number that this one tried.", "Try again.")

    def _decide(self, group: Group, datasets: tuple[Dataset, ...]) -> Decision:
        last = datasets[-1].created_at_ms if datasets else None
        counts = Counts(group.samples_by_device, group.counts.labelled, last)
        return decide(counts, self._policy, self._starter.now_ms())

    def _number(self, group: Group, datasets: tuple[Dataset, ...], rule: LabelRule) -> Dataset:
        """Write the next dataset. Raises Conflict where that number is taken."""
        alike = [dataset.number for dataset in datasets if dataset.features_digest == group.features_digest]
        dataset = Dataset(
            model=self._shelf.model,
            number=datasets[-1].number + 1 if datasets else 1,
            features_digest=group.features_digest,
            previous=max(alike, default=0),
            batches=group.entries,
            labels=self._labels.entries,
            counts=group.counts,
            created_at_ms=self._starter.now_ms(),
            rule=rule,
        )
        self._shelf.write(dataset)
        self.arrivals.settle((*datasets, dataset))
        remarks = group.counts.joined.remarks()
        self._tell(
            f"Wrote {dataset.key}: {group.counts.samples} samples in {len(group.entries)} batches"
            + (f"; {remarks}." if remarks else ".")
        )
        return dataset

    def _start(self, dataset: Dataset) -> Started | None:
        if dataset.key in self._known:
            return None
        outcome, execution = self._starter.start(dataset.key)
        if outcome not in _DONE:
            return None
        self._known.add(dataset.key)
        if outcome is not StartOutcome.ALREADY:
            self._tell(f"Execution {execution} of {self._starter.pipeline} for {dataset.key}: {outcome.value}.")
        return Started(dataset, execution, outcome is not StartOutcome.ALREADY)

    def _say(self, text: str) -> None:
        if text != self._last_said:
            self._last_said = text
            self._tell(text)
