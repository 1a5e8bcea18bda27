"""The parameters of a request: which we know, what they mean, and why the others are refused.

The protocol defines none and has no word for a server to ignore what it does not know; a caller whose parameter does
nothing should hear so. docs/protocol.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.serving.contents import SHOWN
from hybridge_edge.serving.sequences import Step

CAPTURE = "hybridge_capture"
TIMEOUT = "timeout"
PRIORITY = "priority"
SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END = "sequence_id", "sequence_start", "sequence_end"
MAX_SEQUENCE_ID = 128
"""Characters."""
FINAL = "triton_enable_empty_final_response"
BINARY_OUTPUTS = "binary_data_output"
KNOWN = (CAPTURE, TIMEOUT, PRIORITY, SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END, FINAL)
_OF_TENSORS = ("binary_data", "binary_data_size")
"""What clients of the protocol's HTTP form write beside a tensor; over gRPC they say nothing new."""
_MICROSECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a request's parameters ask for; ``timeout_s`` in seconds, None where there is none.

    ``sequence`` is None where there is no word of one; its id is "" where only its start or end is said.
    """

    capture: bool = True
    timeout_s: float | None = None
    sequence: Step | None = None


NONE = Parameters()


def read(parameters: Mapping[str, Any]) -> Parameters:
    """The parameters of a request, each an InferParameter. Raises InvalidInput."""
    if not parameters:
        return NONE
    capture, timeout_s = True, None
    sequence: dict[str, Any] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name == CAPTURE:
            capture = bool(_typed(name, value, bool, "bool_param"))
        elif name == TIMEOUT:
            timeout_s = _timeout(_typed(name, value, int, "int64_param, in microseconds"))
        elif name == PRIORITY:
            if _typed(name, value, int, "uint64_param") != 0:
                raise InvalidInput("The request asks for a priority, and this server has none.", "Leave it out.")
        elif name == SEQUENCE_ID:
            sequence["id"] = _sequence_id(value)
        elif name in (SEQUENCE_START, SEQUENCE_END):
            sequence[name.removeprefix("sequence_")] = _typed(name, value, bool, "bool_param")
        elif name in (FINAL, BINARY_OUTPUTS):
            _typed(
                name, value, bool, "bool_param"
            )  # each answer is the only one and the final one, and raw if asked raw
        else:
            raise InvalidInput(f"The parameter {name[:SHOWN]!r} is unknown.", f"Known ones: {', '.join(KNOWN)}.")
    step = Step(sequence.pop("id", ""), **sequence) if any(sequence.values()) else None
    return Parameters(capture, timeout_s, step)


def check_tensor(name: str, parameters: Mapping[str, Any]) -> None:
    """The parameters of an input or of a requested output. Raises InvalidInput."""
    for parameter in parameters:
        if parameter.startswith("shared_memory"):
            raise InvalidInput(
                f"Tensor {name[:SHOWN]!r} is in shared memory, which this server does not map.",
                "Send its bytes in the request.",
            )
        if parameter == "classification":
            raise InvalidInput(
                f"Output {name[:SHOWN]!r} is asked for as a classification, which this server does not make.",
                "Ask for the output itself and take its largest elements.",
            )
        if parameter not in _OF_TENSORS:
            raise InvalidInput(
                f"The parameter {parameter[:SHOWN]!r} of tensor {name[:SHOWN]!r} is unknown.", "Leave it out."
            )


def _timeout(microseconds: int) -> float | None:
    if microseconds < 0:
        raise InvalidInput(f"The parameter {TIMEOUT} is {microseconds}.", "Send microseconds from 0; 0 is none.")
    return microseconds * _MICROSECONDS if microseconds else None


def _sequence_id(value: Any) -> int | str:
    """A number above 0 or a text; 0 and "" are no sequence, as Triton has it, and come as ""."""
    if type(value) is int and value >= 0:
        return value or ""
    if isinstance(value, str) and len(value) <= MAX_SEQUENCE_ID:
        return value
    raise InvalidInput(
        f"The parameter {SEQUENCE_ID} names no sequence.",
        f"Send int64_param or uint64_param from 1, or string_param of at most {MAX_SEQUENCE_ID} characters.",
    )


def _typed(name: str, value: Any, kind: type, wanted: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"The parameter {name} has another type than it should.", f"Send {wanted}.")
    return value
