"""Doubles of the clients, for tests of programs that ask a model: no server, no socket, no model.

::

    from hybridge_edge.testing import FakeClient

    def test_a_fall_rings_the_bell():
        client = FakeClient({"watch": lambda inputs: {"probabilities": numpy.array([[0.1, 0.9]])}})
        assert rings(client, window)
        assert client.requests[0].model == "watch"

A double answers in the same types and raises the same errors as the client it stands for; ``tests/edge/client`` holds
the two to the same signatures. What it cannot show is time: it answers at once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy

from hybridge_edge.client import AsyncClientSequence, ClientSequence, InferenceAnswer
from hybridge_edge.client.readiness import Progress
from hybridge_edge.client.sequences import DEFAULT_TIMEOUT_S
from hybridge_edge.contract.errors import HybridgeError, InvalidInput, ModelNotFound, SequenceLost, Unavailable
from hybridge_edge.contract.feedback import DEFAULT_SOURCE
from hybridge_edge.engine import Array
from hybridge_edge.serving.sequences import Step

Behaviour = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Inputs to outputs, by name, batch first; may raise an error of hybridge_edge.contract.errors."""


@dataclass(frozen=True, slots=True)
class Stateful:
    """A model with states, for a double: ``begin`` makes what answers one sequence, and is called at each beginning."""

    begin: Callable[[], Behaviour]


Model = Behaviour | Mapping[str, Array] | Stateful


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that a double was given; ``step`` is its place in a sequence, None where it is of none."""

    model: str
    inputs: Mapping[str, Array]
    version: str
    sample_id: str
    outputs: tuple[str, ...]
    capture: bool
    timeout_s: float
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """A label that a double was told."""

    sample_id: str
    label: str
    model: str
    source: str
    confidence: float


@dataclass
class _Script:
    """What both doubles do.

    Attributes:
        requests, labels: all that came, oldest first.
    """

    models: Mapping[str, Model]
    version: str
    requests: list[Asked] = field(default_factory=list)
    labels: list[Said] = field(default_factory=list)
    failures: deque[HybridgeError] = field(default_factory=deque)
    _sequences: dict[tuple[str, int | str], Behaviour] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def answer(self, asked: Asked) -> InferenceAnswer:
        self.requests.append(asked)
        if self.failures:
            raise self.failures.popleft()
        behaviour = self._behaviour(asked)
        if asked.version not in ("", self.version):
            raise ModelNotFound(f"Version {asked.version!r} of {asked.model} is not resident.", "Leave it empty.")
        for name, array in asked.inputs.items():
            if not isinstance(array, numpy.ndarray):
                raise InvalidInput(f"Input {name!r} is no array.", "Send a numpy array, batch first.")
        given = behaviour if isinstance(behaviour, Mapping) else behaviour(asked.inputs)
        found = {name: numpy.asarray(array) for name, array in given.items()}
        unknown = [name for name in asked.outputs if name not in found]
        if unknown:
            raise InvalidInput(f"Output {unknown[0]!r} of {asked.model} is unknown.", f"Outputs: {', '.join(found)}.")
        return InferenceAnswer(
            outputs={name: found[name] for name in asked.outputs or found},
            model=asked.model,
            version=self.version,
            sample_id=asked.sample_id or f"sample-{next(self._numbers)}",
            digest=f"sha256:{0:064x}",
            provider="FakeProvider",
            queue_us=0,
            features_us=0,
            infer_us=0,
            total_us=0,
        )

    def _behaviour(self, asked: Asked) -> Behaviour | Mapping[str, Array]:
        model, step = self._model(asked.model), asked.step
        if step is None:
            return model.begin() if isinstance(model, Stateful) else model
        if not isinstance(model, Stateful):
            raise InvalidInput(f"{asked.model} keeps nothing between requests.", "Give it to the double as Stateful.")
        key = (asked.model, step.id)
        behaviour = model.begin() if step.start else self._sequences.get(key)
        if behaviour is None:
            raise SequenceLost(f"Sequence {step.id!r} of {asked.model} does not run here.", "Start it again.")
        self._sequences[key] = behaviour
        if step.end:
            del self._sequences[key]
            return behaviour if asked.inputs else {}
        return behaviour

    def label(self, said: Said) -> None:
        self._model(said.model)
        self.labels.append(said)

    def ready(self, model: str) -> bool:
        return not model or model in self.models

    def wait(self, model: str, timeout_s: float) -> None:
        if not self.ready(model):
            raise Unavailable(f"Model {model} is not ready after {timeout_s:g} s.", "Give it to the double.")

    def _model(self, model: str) -> Model:
        behaviour = self.models.get(model)
        if behaviour is None:
            known = ", ".join(sorted(self.models)) or "none"
            raise ModelNotFound(f"No model {model!r} is active here.", f"Active models: {known}.")
        return behaviour


class FakeClient:
    """A double of ``hybridge_edge.client.Client``.

    Args:
        models: name to outputs, or to a function from inputs to outputs, or to a Stateful. version: that answers.

    Attributes:
        requests: every ``infer``. labels: every ``feedback``.
    """

    def __init__(self, models: Mapping[str, Model], version: str = "1.0.0") -> None:
        self._script = _Script(dict(models), version)
        self.requests = self._script.requests
        self.labels = self._script.labels
        self.closed = False

    def fail(self, *errors: HybridgeError) -> None:
        """Have the next requests fail, one error each."""
        self._script.failures.extend(errors)

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        asked = Asked(model, dict(inputs), version, sample_id, tuple(outputs), capture, timeout_s)
        return self._script.answer(asked)

    def sequence(self, model: str, *, sequence_id: int | str = "", version: str = "") -> ClientSequence:
        return ClientSequence(self._step, model, sequence_id, version)

    def _step(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step,
    ) -> InferenceAnswer:
        asked = Asked(model, dict(inputs), version, sample_id, tuple(outputs), capture, timeout_s, step)
        return self._script.answer(asked)

    def model_ready(self, model: str, timeout_s: float = 5.0) -> bool:
        return self._script.ready(model)

    def wait_ready(self, model: str = "", *, timeout_s: float = 60.0, progress: Progress | None = None) -> None:
        self._script.wait(model, timeout_s)

    def feedback(
        self, sample_id: str, label: str, *, model: str, source: str = DEFAULT_SOURCE, confidence: float = 1.0
    ) -> None:
        self._script.label(Said(sample_id, label, model, source, confidence))


class FakeAsyncClient:
    """A double of ``hybridge_edge.client.AsyncClient``; see ``FakeClient``."""

    def __init__(self, models: Mapping[str, Model], version: str = "1.0.0") -> None:
        self._script = _Script(dict(models), version)
        self.requests = self._script.requests
        self.labels = self._script.labels
        self.closed = False

    def fail(self, *errors: HybridgeError) -> None:
        """Have the next requests fail, one error each."""
        self._script.failures.extend(errors)

    async def __aenter__(self) -> FakeAsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self.closed = True

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        asked = Asked(model, dict(inputs), version, sample_id, tuple(outputs), capture, timeout_s)
        return self._script.answer(asked)

    def sequence(self, model: str, *, sequence_id: int | str = "", version: str = "") -> AsyncClientSequence:
        return AsyncClientSequence(self._step, model, sequence_id, version)

    async def _step(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step,
    ) -> InferenceAnswer:
        asked = Asked(model, dict(inputs), version, sample_id, tuple(outputs), capture, timeout_s, step)
        return self._script.answer(asked)

    async def model_ready(self, model: str, timeout_s: float = 5.0) -> bool:
        return self._script.ready(model)

    async def wait_ready(self, model: str = "", *, timeout_s: float = 60.0, progress: Progress | None = None) -> None:
        self._script.wait(model, timeout_s)

    async def feedback(
        self, sample_id: str, label: str, *, model: str, source: str = DEFAULT_SOURCE, confidence: float = 1.0
    ) -> None:
        self._script.label(Said(sample_id, label, model, source, confidence))
