"""A request as a program makes it, whichever way it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hybridge_edge.client import wording
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import Part
from hybridge_edge.serving.sequences import Step


@dataclass(frozen=True, slots=True)
class Asked:
    """See ``Client.infer``; ``step`` is the request's place in a sequence."""

    model: str
    inputs: Mapping[str, Array]
    version: str
    sample_id: str
    outputs: Sequence[str]
    capture: bool
    step: Step | None = None

    def parts(self, timeout_s: float, place: Callable[[int, Array], bool] | None = None) -> list[Part]:
        """The message, in parts to be joined; see ``wording.parts``. Raises InvalidInput."""
        return wording.parts(
            self.model,
            self.version,
            self.sample_id,
            self.inputs,
            self.outputs,
            capture=self.capture,
            timeout_us=int(timeout_s * 1e6),
            step=self.step,
            place=place,
        )

    def message(self, timeout_s: float) -> bytes:
        """The whole message. Raises InvalidInput."""
        return b"".join(self.parts(timeout_s))
