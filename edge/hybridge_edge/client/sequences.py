"""A sequence as a program has it: requests of one model that belong together, whose state the server keeps::

    with client.sequence("voice") as sequence:
        for window in windows:
            answer = sequence.infer({"pcm": window})

The first request begins it, leaving the block ends it. A request is sent once: whether one that got no answer was run
is not known, and running it again would run it on another state. Only the first may be tried again, since it begins
anew each time. After a request of which nobody knows whether it was run, the sequence is over (``SequenceLost``).
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from hybridge_edge.client.answers import InferenceAnswer
from hybridge_edge.contract.errors import DeadlineExceeded, HybridgeError, SequenceLost, Unavailable
from hybridge_edge.engine import Array
from hybridge_edge.serving.sequences import Step

DEFAULT_TIMEOUT_S = 10.0
END_S = 1.0
"""For the word that a sequence has ended; where it does not arrive, the server forgets the sequence in time."""


class Ask(Protocol):
    """How a client asks; see ``Client.infer``. ``step`` is the request's place in its sequence."""

    def __call__(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step,
    ) -> InferenceAnswer: ...


class AsyncAsk(Protocol):
    """The same, awaited."""

    def __call__(
        self,
        model: str,
        inputs: Mapping[str, Array],
        version: str,
        sample_id: str,
        outputs: Sequence[str],
        capture: bool,
        timeout_s: float,
        step: Step,
    ) -> Awaitable[InferenceAnswer]: ...


class _Progress:
    """Where a sequence is.

    Attributes:
        id: what the server knows it by. running: it has begun and not ended. lost: why it is over, "" where it is not.
    """

    def __init__(self, model: str, sequence_id: int | str) -> None:
        self.model = model
        self.id = sequence_id or secrets.token_hex(16)
        self.running = False
        self.ended = False
        self.lost = ""

    def step(self, *, last: bool) -> Step:
        """The next request's place. Raises SequenceLost where there can be none."""
        if self.lost or self.ended:
            why = self.lost or "It has ended."
            raise SequenceLost(f"This sequence of {self.model} is over: {why}", "Begin another one.")
        return Step(self.id, not self.running, last)

    def answered(self, *, last: bool) -> None:
        self.running, self.ended = not last, last

    def failed(self, error: BaseException) -> None:
        """What a refusal says is known: the state is as it was. Where nothing was said it is not known."""
        unknown = isinstance(error, (Unavailable, DeadlineExceeded, SequenceLost)) or not isinstance(
            error, HybridgeError
        )
        if unknown and (self.running or isinstance(error, SequenceLost)):
            self.lost = error.message if isinstance(error, HybridgeError) else "a request of it was broken off."
            self.running = False

    def farewell(self) -> Step | None:
        """The request that ends it, None where none is due."""
        due = self.running and not self.lost
        self.running, self.ended = False, True
        return Step(self.id, end=True) if due else None


class ClientSequence:
    """Made by ``Client.sequence``; for one thread at a time.

    Attributes:
        id: what the server knows it by.
    """

    def __init__(self, ask: Ask, model: str, sequence_id: int | str = "", version: str = "") -> None:
        self._ask = ask
        self._version = version
        self._progress = _Progress(model, sequence_id)
        self.id = self._progress.id

    def __enter__(self) -> ClientSequence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def infer(
        self,
        inputs: Mapping[str, Array],
        *,
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        last: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        """Ask the sequence's next request, one row of each input; see ``Client.infer``.

        Args:
            last: the sequence ends with it.

        Raises:
            SequenceLost: the server has it no more, or it is over; begin another one. Else as ``Client.infer``.
        """
        progress = self._progress
        step = progress.step(last=last)
        version = self._version if step.start else ""
        try:
            answer = self._ask(progress.model, inputs, version, sample_id, outputs, capture, timeout_s, step)
        except BaseException as error:
            progress.failed(error)
            raise
        progress.answered(last=last)
        return answer

    def end(self) -> None:
        """Have the server forget it; nothing is raised, since the server does so in time by itself."""
        step = self._progress.farewell()
        if step is not None:
            try:
                self._ask(self._progress.model, {}, "", "", (), False, END_S, step)
            except HybridgeError:
                pass


class AsyncClientSequence:
    """Made by ``AsyncClient.sequence``; for one task at a time. As ``ClientSequence``, awaited."""

    def __init__(self, ask: AsyncAsk, model: str, sequence_id: int | str = "", version: str = "") -> None:
        self._ask = ask
        self._version = version
        self._progress = _Progress(model, sequence_id)
        self.id = self._progress.id

    async def __aenter__(self) -> AsyncClientSequence:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end()

    async def infer(
        self,
        inputs: Mapping[str, Array],
        *,
        sample_id: str = "",
        outputs: Sequence[str] = (),
        capture: bool = True,
        last: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> InferenceAnswer:
        """Ask the sequence's next request; see ``ClientSequence.infer``."""
        progress = self._progress
        step = progress.step(last=last)
        version = self._version if step.start else ""
        try:
            answer = await self._ask(progress.model, inputs, version, sample_id, outputs, capture, timeout_s, step)
        except BaseException as error:
            progress.failed(error)
            raise
        progress.answered(last=last)
        return answer

    async def end(self) -> None:
        """Have the server forget it; see ``ClientSequence.end``."""
        step = self._progress.farewell()
        if step is not None:
            try:
                await self._ask(self._progress.model, {}, "", "", (), False, END_S, step)
            except HybridgeError:
                pass


def retried(step: Step | None, wanted: bool) -> bool:
    """Whether a request that a server did not answer may be made again."""
    return wanted and (step is None or step.start)
