"""What a gate says of a wave: the outcome, the test that was made, and a sentence with its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument


class Outcome(str, Enum):
    """HOLD means that it cannot be said yet: it never becomes PASS by waiting alone."""

    PASS = "PASS"  # noqa: S105  not a password
    FAIL = "FAIL"
    HOLD = "HOLD"


class Gate(str, Enum):
    """What a wave is judged by, in the order in which verdicts are listed. SCORES: in a shadow stage alone."""

    ACTIVATION = "activation"
    ERRORS = "errors"
    GUARDS = "guards"
    LATENCY = "latency"
    PROBES = "disagreement on probes"
    LIVE = "disagreement on live requests"
    SCORES = "shift of scores"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate's word on one wave. ``test`` names the test, "" where none was made."""

    gate: Gate
    outcome: Outcome
    test: str
    reason: str

    def to_json(self) -> dict[str, object]:
        return {"gate": self.gate.value, "outcome": self.outcome.value, "test": self.test, "reason": self.reason}

    @classmethod
    def read(cls, reader: Reader) -> GateVerdict:
        return cls(
            gate=Gate(reader.text("gate", check=_gate)),
            outcome=Outcome(reader.text("outcome", check=_outcome)),
            test=reader.text("test"),
            reason=reader.text("reason"),
        )


def _gate(text: str) -> str:
    if text not in {gate.value for gate in Gate}:
        raise InvalidDocument(f"{text[:40]!r} is not a gate")
    return text


def _outcome(text: str) -> str:
    if text not in Outcome.__members__:
        raise InvalidDocument(f"{text[:40]!r} is not an outcome")
    return text
