"""The transport-free heart: which model answers, with what, and how many at once.

A request takes a lease on the resident model, so that a switch never waits for requests and no request ever sees two
models: the old engine is closed when its last lease ends.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from hybridge_edge.contract.errors import HybridgeError, ModelNotFound
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Array, Engine, EngineResult
from hybridge_edge.gate import Gate
from hybridge_edge.signature import Signature

if TYPE_CHECKING:
    from hybridge_edge.capture import Capture

_LOG = logging.getLogger(__name__)
_SAMPLE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_ROW_ROOM = 6
"""Characters a row's suffix may need: a slash and up to five digits."""
TRIAL_RUNS = 20
"""Answers after which a new digest is trusted: a crash from then on is not laid at its door alone."""


@dataclass(frozen=True, slots=True)
class Inference:
    """A request: raw inputs by name, batch first; ``version`` and ``sample_id`` may be ""; () is every output."""

    model: str
    version: str
    sample_id: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] = ()
    capture: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it; times in microseconds, ``total_us`` from the request's entry here to its leaving."""

    model: str
    version: str
    digest: str
    sample_id: str
    provider: str
    outputs: tuple[tuple[TensorSpec, Array], ...]
    queue_us: int
    features_us: int
    infer_us: int
    total_us: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one model since the server started. ``failures``: our fault or overload; ``invalid``: the caller's."""

    requests: int = 0
    failures: int = 0
    invalid: int = 0


class Resident:
    """A model in memory, with the leases on it; ``trial`` marks its runs until it is trusted."""

    def __init__(
        self, manifest: Manifest, digest: str, engine: Engine, trial: AbstractContextManager[None] | None = None
    ) -> None:
        self.manifest = manifest
        self.digest = digest
        self.engine = engine
        self.signature = Signature(manifest)
        self.leases = 0
        self.retired = False
        self.answers = 0
        self.trial: AbstractContextManager[None] = trial or nullcontext()


class Service:
    """Models by name, one resident version each.

    Args:
        gate: how many runs at once and how many wait.
        on_trusted: called once, from a request's thread, when a digest has answered TRIAL_RUNS times.
    """

    def __init__(self, gate: Gate, on_trusted: Callable[[str, str], None]) -> None:
        self._gate = gate
        self._on_trusted = on_trusted
        self._lock = Lock()
        self._residents: dict[str, Resident] = {}
        self._counters: dict[str, Counters] = {}
        self.capture: Capture | None = None

    def resident(self, model: str) -> Resident | None:
        """The model that answers now, for looking at; requests take a lease instead."""
        with self._lock:
            return self._residents.get(model)

    def residents(self) -> dict[str, Resident]:
        with self._lock:
            return dict(self._residents)

    def counters(self, model: str) -> Counters:
        with self._lock:
            return self._counters.get(model, Counters())

    def switch(self, resident: Resident) -> None:
        """From the next request on, ``resident`` answers for its model; the old one ends with its last request."""
        with self._lock:
            old = self._residents.get(resident.manifest.name)
            self._residents[resident.manifest.name] = resident
        self._retire(old)

    def unload(self, model: str) -> None:
        """The model answers no more."""
        with self._lock:
            old = self._residents.pop(model, None)
        self._retire(old)

    def find(self, model: str, version: str) -> Resident:
        """The resident model of that name and version ("" is the active one), or ModelNotFound."""
        with self._lock:
            return self._find(model, version)

    def infer(self, request: Inference, timeout_s: float) -> Answer:
        """Answer a request.

        Args:
            timeout_s: how long the caller still waits; a longer queue is Overloaded.

        Raises:
            ModelNotFound, InvalidInput, Overloaded: as the names say. Anything else is a failure of the engine.
        """
        entered = time.perf_counter_ns()
        try:
            with self._lease(request.model, request.version) as resident:
                rows = resident.signature.check(request.inputs)
                wanted = resident.signature.select(request.outputs)
                with self._gate.enter(timeout_s), resident.trial:
                    started = time.perf_counter_ns()
                    result = resident.engine.run(request.inputs)
                answer = Answer(
                    model=resident.manifest.name,
                    version=resident.manifest.version,
                    digest=resident.digest,
                    sample_id=_sample_id(request.sample_id, rows),
                    provider=resident.engine.provider,
                    outputs=tuple((spec, result.outputs[spec.name]) for spec in wanted),
                    queue_us=(started - entered) // 1000,
                    features_us=result.features_us,
                    infer_us=result.infer_us,
                    total_us=(time.perf_counter_ns() - entered) // 1000,
                )
                if request.capture and self.capture is not None:
                    _offer(self.capture, resident, answer.sample_id, rows, result)
                trusted = self._count_answer(resident)
        except BaseException as error:
            self._count_error(request.model, error)
            raise
        if trusted:
            self._on_trusted(answer.model, answer.digest)
        return answer

    @contextmanager
    def _lease(self, model: str, version: str) -> Iterator[Resident]:
        with self._lock:
            resident = self._find(model, version)
            resident.leases += 1
        try:
            yield resident
        finally:
            with self._lock:
                resident.leases -= 1
                close = resident.retired and resident.leases == 0
            if close:
                resident.engine.close()

    def _find(self, model: str, version: str) -> Resident:
        resident = self._residents.get(model)
        if resident is None:
            known = ", ".join(sorted(self._residents)) or "none"
            raise ModelNotFound(f"No model {model[:64]!r} is active here.", f"Active models: {known}.")
        if version and version != resident.manifest.version:
            raise ModelNotFound(
                f"Version {version[:40]!r} of {model} is not resident.",
                f"Leave the version empty, or ask for {resident.manifest.version}.",
            )
        return resident

    def _retire(self, old: Resident | None) -> None:
        if old is None:
            return
        with self._lock:
            old.retired = True
            close = old.leases == 0
        if close:
            old.engine.close()

    def _count_answer(self, resident: Resident) -> bool:
        """Count it, and say whether it was the last of the digest's trial."""
        name = resident.manifest.name
        with self._lock:
            before = self._counters.get(name, Counters())
            self._counters[name] = Counters(before.requests + 1, before.failures, before.invalid)
            resident.answers += 1
            if resident.answers == TRIAL_RUNS:
                resident.trial = nullcontext()
            return resident.answers == TRIAL_RUNS

    def _count_error(self, model: str, error: BaseException) -> None:
        theirs = isinstance(error, HybridgeError) and error.code in ("INVALID_ARGUMENT", "NOT_FOUND")
        with self._lock:
            if model not in self._residents:
                return  # a stranger's names must not grow this table
            before = self._counters.get(model, Counters())
            self._counters[model] = Counters(
                before.requests + 1, before.failures + (not theirs), before.invalid + theirs
            )


def _sample_id(given: str, rows: int) -> str:
    """The caller's id where it may name a sample, and its rows, else a new one."""
    room = len(given) + (_ROW_ROOM if rows > 1 else 0) <= 128
    return given if room and _SAMPLE_ID.fullmatch(given) else uuid.uuid4().hex


def _offer(capture: Capture, resident: Resident, sample_id: str, rows: int, result: EngineResult) -> None:
    """Offer each row to the capture, under the request's id, or ID/ROW where there are several."""
    from hybridge_edge.capture import Observation

    manifest = resident.manifest
    now_ms = time.time_ns() // 1_000_000
    for row in range(rows):
        outputs = _row(manifest.outputs, result.outputs, row, rows)
        confidence = outputs.get(manifest.confidence_output)
        capture.offer(
            Observation(
                model=manifest.name,
                version=manifest.version,
                digest=resident.digest,
                features_digest=manifest.features_digest,
                sample_id=sample_id if rows == 1 else f"{sample_id}/{row}",
                captured_at_ms=now_ms,
                features=_row(manifest.features, result.features, row, rows),
                outputs=outputs,
                confidence=-1.0 if confidence is None else float(confidence.max()),
            )
        )


def _row(specs: tuple[TensorSpec, ...], arrays: Mapping[str, Array], row: int, rows: int) -> dict[str, Array]:
    """One row of each array. Of several rows it is a copy: a view in the queue would keep the whole batch in memory."""
    found = {spec.name: arrays[spec.name][row] if spec.shape[0] == -1 else arrays[spec.name] for spec in specs}
    return found if rows == 1 else {name: array.copy() for name, array in found.items()}
