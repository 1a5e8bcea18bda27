"""Which inferences are kept, and how they reach the spool without a request ever waiting for a disk."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge import spool
from hybridge_edge.arrays import Array, to_tensor
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, Overloaded, SpoolFull, Unavailable, UsageError
from hybridge_edge.contract.sample import MAX_SAMPLE_BYTES, Sample
from hybridge_edge.spool_writer import DEFAULT_LIMIT_BYTES, SpoolWriter
from hybridge_edge.traces import Trace, Traces

QUEUE_OBSERVATIONS = 1024
QUEUE_BYTES = 64 * 1024 * 1024
GROUP_RECORDS = 16
GROUP_SECONDS = 0.1
"""What a power cut can cost: the records of one group that was not on the disk yet."""
REOPEN_SECONDS = 5.0
"""How long the writer waits before it tries a spool again that could not be opened or written."""
CLOSE_SECONDS = 10.0
MAX_NOTES = 64
"""Notes that may wait for the disk at once."""
NOTE_SECONDS = 10.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observation:
    """One answered request, or one row of a batch. It never holds the raw input.

    Attributes:
        version, digest: the package that answered. features_digest: the graph that made ``features``.
        captured_at_ms: milliseconds since 1970 by the device's clock.
        features, outputs: arrays of one row, without the batch axis; nobody may change them afterwards.
        confidence: the largest value of the model's confidence output, -1.0 where it has none.
    """

    model: str
    version: str
    digest: str
    features_digest: str
    sample_id: str
    captured_at_ms: int
    features: Mapping[str, Array]
    outputs: Mapping[str, Array]
    confidence: float = -1.0

    @property
    def size(self) -> int:
        """Bytes of all its arrays."""
        return sum(array.nbytes for arrays in (self.features, self.outputs) for array in arrays.values())

    def to_sample(self, reason: str) -> Sample:
        """The sample as it is stored. Raises InvalidDocument where a name or type does not fit the contract."""
        return Sample(
            sample_id=self.sample_id,
            model=self.model,
            version=self.version,
            digest=self.digest,
            features_digest=self.features_digest,
            captured_at_ms=self.captured_at_ms,
            reason=reason,
            confidence=self.confidence if math.isfinite(self.confidence) else -1.0,
            features=tuple(to_tensor(name, self.features[name]) for name in sorted(self.features)),
            outputs=tuple(to_tensor(name, self.outputs[name]) for name in sorted(self.outputs)),
        )


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """Which observations are kept.

    Args:
        share: of all observations, drawn at random, 0 to 1.
        confidence_below: keep every observation whose confidence is known and below this, or not a number.
    """

    share: float = 0.1
    confidence_below: float = 0.6

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0 or not 0.0 <= self.confidence_below <= 1.0:
            raise UsageError(
                f"The capture share {self.share} and the confidence limit {self.confidence_below} go from 0 to 1.",
                "Correct captureShare or captureConfidenceBelow.",
            )

    def reason(self, confidence: float, draw: float) -> str:
        """Why an observation is kept, "" where it is not; ``draw`` is uniform in [0, 1)."""
        if math.isnan(confidence) or 0.0 <= confidence < self.confidence_below:
            return "low-confidence"
        return "random" if draw < self.share else ""


@dataclass(frozen=True, slots=True)
class CaptureCounters:
    """Since the start: kept = captured + dropped + those on their way.

    Attributes:
        offered: everything. kept: chosen by the policy. captured: on the disk, fsynced.
        dropped_*: kept and then lost, by reason: queue full, spool or disk full, spool failed, not a valid sample.
        spool_records: in the spool's whole life, over restarts. spool_bytes: its size. error: the last one, or "".
    """

    offered: int = 0
    kept: int = 0
    captured: int = 0
    dropped_queue_full: int = 0
    dropped_spool_full: int = 0
    dropped_spool_failed: int = 0
    dropped_invalid: int = 0
    spool_records: int = 0
    spool_bytes: int = 0
    error: str = ""

    @property
    def dropped(self) -> int:
        return self.dropped_queue_full + self.dropped_spool_full + self.dropped_spool_failed + self.dropped_invalid


class Capture:
    """Takes observations from the serving threads and writes the chosen ones to the spool in a thread of its own.

    A spool that cannot be opened or written costs samples, which are counted, and never a request.

    Args:
        policy: which to keep. spool_folder: made if need be. spool_limit_bytes: over it samples are dropped.
        draw: uniform numbers in [0, 1); a test gives a seeded one.
    """

    def __init__(
        self,
        policy: CapturePolicy,
        spool_folder: Path,
        spool_limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        rng: random.Random | None = None,
    ) -> None:
        self._policy = policy
        self.folder = spool_folder
        self._limit = spool_limit_bytes
        self._random = rng or random.Random()  # noqa: S311  which samples to keep is no secret
        self._condition = threading.Condition()
        self._queue: deque[tuple[Observation, str]] = deque()
        self._notes: deque[tuple[bytes, Future[None]]] = deque()
        self._traces = Traces()
        self._queued_bytes = 0
        self._closing = False
        self._paused = False
        self._counts = dict.fromkeys(
            ("offered", "kept", "captured", "queue_full", "spool_full", "spool_failed", "invalid"), 0
        )
        self._error = ""
        self._writer: SpoolWriter | None = None
        self._retry_at = 0.0
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def offer(self, observation: Observation) -> None:
        """Take an observation: never waits, never raises. Called by many threads."""
        with self._condition:
            self._counts["offered"] += 1
            if self._paused or self._closing:
                return
            reason = self._policy.reason(observation.confidence, self._random.random())
            if not reason:
                return
            self._counts["kept"] += 1
            size = observation.size
            if len(self._queue) >= QUEUE_OBSERVATIONS or self._queued_bytes + size > QUEUE_BYTES:
                self._counts["queue_full"] += 1
                self._traces.dropped([observation.sample_id], "queue-full")
                return
            self._traces.waiting(observation.sample_id)
            self._queue.append((observation, reason))
            self._queued_bytes += size
            self._condition.notify()

    def note(self, body: bytes) -> None:
        """Bring a record that is no sample, such as a label, into the spool; on the disk when this returns.

        Raises:
            Overloaded: MAX_NOTES wait already. SpoolFull: it has no room. Unavailable: the spool has failed, or took
            longer than NOTE_SECONDS; then the record may be there or not.
        """
        done: Future[None] = Future()
        with self._condition:
            if self._closing:
                raise Unavailable("The server stops.", "Say it again when it runs.")
            if len(self._notes) >= MAX_NOTES:
                raise Overloaded(f"{MAX_NOTES} labels wait for the disk already.", "Say it again in a moment.")
            self._notes.append((body, done))
            self._condition.notify()
        try:
            done.result(NOTE_SECONDS)
        except FutureTimeout:
            raise Unavailable("The disk does not answer.", "Look at the device's disk, and say it again.") from None

    def where(self, sample_id: str) -> Trace:
        """Where a sample stands on its way to the cloud."""
        return self._traces.find(sample_id, spool.Cursor.read(self.folder))

    def change(self, policy: CapturePolicy, spool_limit_bytes: int) -> None:
        """Go by another policy from the next observation on, and by another limit from the next group on."""
        with self._condition:
            self._policy = policy
            self._limit = spool_limit_bytes

    def enable(self, on: bool) -> None:
        """Start or stop keeping observations; what is in the queue is written in any case."""
        with self._condition:
            self._paused = not on

    def counters(self) -> CaptureCounters:
        writer = self._writer
        with self._condition:
            counts = self._counts
            return CaptureCounters(
                offered=counts["offered"],
                kept=counts["kept"],
                captured=counts["captured"],
                dropped_queue_full=counts["queue_full"],
                dropped_spool_full=counts["spool_full"],
                dropped_spool_failed=counts["spool_failed"],
                dropped_invalid=counts["invalid"],
                spool_records=writer.total if writer else 0,
                spool_bytes=writer.used_bytes if writer else 0,
                error=self._error,
            )

    def close(self) -> None:
        """Write what is in the queue, within CLOSE_SECONDS, and seal the spool."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            self._open()
            while self._wait():
                self._write_notes()
                if group := self._next_group():
                    self._store(group)
        finally:
            if self._writer is not None:
                self._writer.close()

    def _wait(self) -> bool:
        """Until there is something to write; False when closing and nothing is left."""
        with self._condition:
            while not (self._queue or self._notes or self._closing):
                self._condition.wait()
            return bool(self._queue or self._notes)

    def _write_notes(self) -> None:
        """Somebody waits for each of these, so none waits for company."""
        with self._condition:
            notes = list(self._notes)
            self._notes.clear()
        for body, done in notes:
            writer = self._writing()
            try:
                if writer is None:
                    raise Unavailable(f"The spool cannot be written: {self._error}", "Look at the device's disk.")
                writer.append([body])
            except SpoolFull as error:
                done.set_exception(error)
            except (HybridgeError, OSError) as error:
                if writer is not None:
                    self._abandon(writer)
                done.set_exception(Unavailable(f"The spool failed: {error}.", "Say it again in a moment."))
            else:
                done.set_result(None)

    def _next_group(self) -> list[tuple[Observation, str]]:
        """What waits, with a moment for company where something does; empty where nothing does."""
        with self._condition:
            end = time.monotonic() + (GROUP_SECONDS if self._queue else 0.0)
            while len(self._queue) < GROUP_RECORDS and not self._closing and not self._notes:
                remaining = end - time.monotonic()
                if remaining <= 0 or not self._condition.wait(remaining):
                    break
            group: list[tuple[Observation, str]] = []
            size = 0
            while self._queue and len(group) < GROUP_RECORDS and size < MAX_SAMPLE_BYTES:
                observation, reason = self._queue.popleft()
                size += observation.size
                group.append((observation, reason))
            self._queued_bytes -= size
            return group

    def _store(self, group: list[tuple[Observation, str]]) -> None:
        bodies: list[bytes] = []
        ids: list[str] = []
        for observation, reason in group:
            try:
                body = observation.to_sample(reason).to_bytes()
                if len(body) > MAX_SAMPLE_BYTES:
                    raise InvalidDocument(f"A sample of {observation.model!r} is {len(body)} bytes large.")
                bodies.append(body)
                ids.append(observation.sample_id)
            except (HybridgeError, ValueError) as error:
                self._count("invalid", 1, str(error))
                self._traces.dropped([observation.sample_id], "invalid")
        size = sum(map(len, bodies))
        half = len(bodies) // 2 if size > spool.MAX_GROUP_BYTES else len(bodies)
        for part in (slice(half), slice(half, None)):
            if bodies[part]:
                self._append(bodies[part], ids[part])

    def _append(self, bodies: list[bytes], ids: list[str]) -> None:
        writer = self._writing()
        if writer is None:
            self._count("spool_failed", len(bodies), self._error)
            self._traces.dropped(ids, "spool-failed")
            return
        try:
            numbers = writer.append(bodies)
        except SpoolFull as error:
            self._count("spool_full", len(bodies), str(error))
            self._traces.dropped(ids, "spool-full")
        except (HybridgeError, OSError) as error:
            self._count("spool_failed", len(bodies), f"The spool failed: {error}.")
            self._traces.dropped(ids, "spool-failed")
            self._abandon(writer)
        else:
            self._count("captured", len(bodies), "")
            self._traces.captured(ids, writer.epoch, numbers.start)

    def _abandon(self, writer: SpoolWriter) -> None:
        writer.close()
        self._writer = None
        self._retry_at = time.monotonic() + REOPEN_SECONDS

    def _writing(self) -> SpoolWriter | None:
        """The spool's writer, held to the limit that holds now; None while it cannot be had."""
        writer = self._writer or self._open()
        if writer is not None:
            writer.limit(self._limit)
        return writer

    def _open(self) -> SpoolWriter | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            self._writer = SpoolWriter(self.folder, self._limit)
        except (HybridgeError, OSError) as error:
            self._retry_at = time.monotonic() + REOPEN_SECONDS
            self._count("spool_failed", 0, str(error))
        return self._writer

    def _count(self, name: str, number: int, error: str) -> None:
        with self._condition:
            self._counts[name] += number
            changed, self._error = error != self._error, error
        if error and changed:
            _log.warning("%s", error)
