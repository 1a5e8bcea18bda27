"""The transport-free heart: a request in, its model leased, run, held to its guards, counted, an answer out."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from hybridge_edge.contract.errors import HybridgeError, InvalidInput
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import Array, EngineResult
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.guards import FLAG, REFUSE, AnswerRefused, object_to, stricter
from hybridge_edge.serving.live import LiveComparison
from hybridge_edge.serving.residents import Resident, Residents
from hybridge_edge.serving.runner import Runner
from hybridge_edge.serving.sequences import Sequences, Step, Turn
from hybridge_edge.serving.shadow import Shadowing
from hybridge_edge.serving.statistics import Statistics, scores_of
from hybridge_edge.serving.watchdog import Watchdog, unwatched

if TYPE_CHECKING:
    from hybridge_edge.capture import Capture

_SAMPLE_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_ROW_ROOM = 6
"""Characters a row's suffix may need: a slash and up to five digits."""


class Inference(NamedTuple):
    """A request: raw inputs by name, batch first; ``version`` and ``sample_id`` may be ""; () is every output.

    ``sequence`` says which sequence it belongs to; a model with states answers a request of none from the beginning.
    """

    model: str
    version: str
    sample_id: str
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] = ()
    capture: bool = True
    sequence: Step | None = None


class Answer(NamedTuple):
    """What came of it; times in microseconds, ``total_us`` from the request's entry here to its leaving.

    ``copy_us`` went into putting requests together and taking answers apart. ``guard`` is the sentence of a guard that
    flags this answer, "" where none does.
    """

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
    guard: str = ""
    copy_us: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Of one model since the server started. ``failures``: our fault or overload; ``invalid``: the caller's."""

    requests: int = 0
    failures: int = 0
    invalid: int = 0


class Service:
    """Models by name, and requests to them.

    Args:
        gate: how many runs at once and how many wait.
        on_trusted: called once, from a request's thread, when a digest has answered TRIAL_RUNS times.
        live_share: of requests that the version before answers too, 0 to 1 (see ``live``).
        watchdog: ends what takes too long; None where nothing shall. broken: see ``Runner``.
        shadow_share: of requests that a shadow answers too, 0 to 1 (see ``shadow``).
    """

    def __init__(
        self,
        gate: Gate,
        on_trusted: Callable[[str, str], None],
        live_share: float = 0.0,
        watchdog: Watchdog | None = None,
        broken: Callable[[Resident, str], None] = lambda resident, reason: None,
        shadow_share: float = 0.0,
    ) -> None:
        self.residents = Residents()
        self.statistics = Statistics()
        self.runner = Runner(gate, watchdog or unwatched(), self.statistics, broken)
        self.live = LiveComparison(self.residents, self.runner, live_share)
        self.sequences = Sequences()
        self.shadowing = Shadowing(self.residents, self.runner, shadow_share)
        self.capture: Capture | None = None
        self._on_trusted = on_trusted
        self._lock = Lock()
        self._counters: dict[str, list[int]] = {}

    @property
    def gate(self) -> Gate:
        """Who may run: for work beside the requests."""
        return self.runner.gate

    def counters(self, model: str) -> Counters:
        with self._lock:
            return Counters(*self._counters.get(model, ()))

    def infer(self, request: Inference, call: Call) -> Answer:
        """Answer a request.

        Args:
            call: until when the caller waits and whether it still does; a longer queue is Overloaded.

        Raises:
            ModelNotFound, InvalidInput, Overloaded: as the names say. AnswerRefused: a guard holds the answer back.
            SequenceLost: the request's sequence does not run here.
            Anything else is a failure of the engine.
        """
        entered = time.perf_counter_ns()
        try:
            if request.sequence is None:
                with self.residents.lease(request.model, request.version) as resident:
                    answer, trusted = self._answered(resident, request, call, entered)
            else:
                answer, trusted = self._in_sequence(request, request.sequence, call, entered)
        except BaseException as error:
            self._count_error(request.model, error)
            raise
        if trusted:
            self._on_trusted(answer.model, answer.digest)
        return answer

    def _answered(
        self, resident: Resident, request: Inference, call: Call, entered: int, turn: Turn | None = None
    ) -> tuple[Answer, bool]:
        try:
            return self._answer(resident, request, call, entered, turn)
        except BaseException as error:
            if not _callers_fault(error):
                self._failed(resident, error)
            raise

    def _in_sequence(self, request: Inference, step: Step, call: Call, entered: int) -> tuple[Answer, bool]:
        """As one of a sequence: behind its requests before, on the version that it began with."""
        here = (self.residents.find(request.model, ""), self.residents.standby(request.model))
        # It may run on the version before, even where the active one has no states.
        _check_sequence(next((one for one in here if one is not None and one.manifest.states), here[0]).manifest, step)
        with self.sequences.turn(request.model, step, call) as turn:
            if not turn.digest:
                with self.residents.lease(request.model, request.version) as resident:
                    _check_sequence(resident.manifest, step)
                    resident.signature.check(request.inputs)  # before anything gives way to it
                    turn.begins(resident.manifest)
                    return self._answered(resident, request, call, entered, turn)
            lease = self.residents.lease_digest(request.model, turn.digest)
            if lease is None:
                raise turn.gone()
            with lease as resident:
                if request.version not in ("", resident.manifest.version):
                    raise InvalidInput(
                        f"The sequence runs on version {resident.manifest.version}.",
                        "Leave the version empty, or start a sequence on the other one.",
                    )
                if step.end and not request.inputs:
                    turn.answered(turn.digest, {})
                    return _farewell(resident, request), False
                return self._answered(resident, request, call, entered, turn)

    def _failed(self, resident: Resident, error: BaseException) -> None:
        guarded = isinstance(error, AnswerRefused)
        resident.tally.failed(guarded=guarded)
        code = error.code if isinstance(error, HybridgeError) else "INTERNAL"
        manifest = resident.manifest
        self.statistics.failed(manifest.name, manifest.version, resident.engine.provider, code, guarded)

    def _answer(
        self, resident: Resident, request: Inference, call: Call, entered: int, turn: Turn | None
    ) -> tuple[Answer, bool]:
        """The answer, and whether it was the last of the digest's trial."""
        manifest = resident.manifest
        rows = resident.signature.check(request.inputs)
        wanted = resident.signature.select(request.outputs)
        ran = self.runner.run(resident, request.inputs, rows, call, turn.state if turn is not None else None)
        result = ran.result
        objection = object_to(manifest.guards, result.outputs) if manifest.guards else None
        objection = stricter(objection, resident.constancy.object_to(request.inputs, result.outputs))
        if objection is not None and objection.action == REFUSE:
            raise AnswerRefused(objection.sentence, f"{manifest.name} {manifest.version} may not answer so.")
        if turn is not None:
            turn.answered(resident.digest, result.state)
        answer = Answer(
            model=manifest.name,
            version=manifest.version,
            digest=resident.digest,
            sample_id=_sample_id(request.sample_id, rows),
            provider=resident.engine.provider,
            outputs=tuple((spec, result.outputs[spec.name]) for spec in wanted),
            queue_us=(ran.started_ns - entered) // 1000,
            features_us=result.features_us,
            infer_us=result.infer_us,
            total_us=(time.perf_counter_ns() - entered) // 1000,
            guard=objection.sentence if objection is not None and objection.action == FLAG else "",
            copy_us=ran.copy_us,
        )
        if request.capture and self.capture is not None:
            _offer(self.capture, resident, answer.sample_id, rows, result)
        resident.tally.answered(result.features_us + result.infer_us, guarded=objection is not None)
        times = (answer.queue_us, answer.copy_us, answer.features_us, answer.infer_us, answer.total_us)
        self.statistics.answered(
            answer.model, answer.version, answer.provider, rows, times, guarded=objection is not None
        )
        if manifest.confidence_output:
            confidences = scores_of(result.outputs[manifest.confidence_output], rows)
            self.statistics.scored(answer.model, answer.version, confidences)
        self.live.offer(resident, request.inputs, result.outputs, rows)
        self.shadowing.offer(resident, request.inputs, result.outputs, rows)
        return answer, self._count_answer(resident)

    def _count_answer(self, resident: Resident) -> bool:
        """Count it, and say whether it was the last of the digest's trial."""
        with self._lock:
            self._counts(resident.manifest.name)[0] += 1
            return resident.count()

    def _count_error(self, model: str, error: BaseException) -> None:
        theirs = _callers_fault(error)
        if self.residents.active(model) is None:
            return  # a stranger's names must not grow this table
        with self._lock:
            counts = self._counts(model)
            counts[0] += 1
            counts[2 if theirs else 1] += 1

    def _counts(self, model: str) -> list[int]:
        """Requests, failures, invalid ones. The lock is held."""
        counts = self._counters.get(model)
        if counts is None:
            counts = self._counters[model] = [0, 0, 0]
        return counts


def _callers_fault(error: BaseException) -> bool:
    return isinstance(error, HybridgeError) and error.code in _NOT_OURS


_NOT_OURS = ("ABORTED", "CANCELLED", "INVALID_ARGUMENT", "NOT_FOUND")


def _check_sequence(manifest: Manifest, step: Step) -> None:
    """Raises InvalidInput."""
    if not manifest.states:
        raise InvalidInput(
            f"The request asks for a sequence, and {manifest.name} keeps nothing between requests.",
            "Send each window whole, without the parameters of a sequence.",
        )
    if step.id == "":
        raise InvalidInput("The request begins or ends a sequence and does not name it.", "Send sequence_id with it.")


def _farewell(resident: Resident, request: Inference) -> Answer:
    """To a request that ends its sequence and asks nothing."""
    manifest, provider = resident.manifest, resident.engine.provider
    return Answer(
        manifest.name, manifest.version, resident.digest, _sample_id(request.sample_id, 1), provider, (), 0, 0, 0, 0
    )


def _sample_id(given: str, rows: int) -> str:
    """The caller's id where it may name a sample, and its rows, else a new one."""
    room = len(given) + (_ROW_ROOM if rows > 1 else 0) <= 128
    return given if room and _SAMPLE_ID.fullmatch(given) else secrets.token_hex(16)


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
