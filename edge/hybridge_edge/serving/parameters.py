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

CAPTURE = "hybridge_capture"
TIMEOUT = "timeout"
PRIORITY = "priority"
SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
FINAL = "triton_enable_empty_final_response"
BINARY_OUTPUTS = "binary_data_output"
KNOWN = (CAPTURE, TIMEOUT, PRIORITY, FINAL)
_OF_TENSORS = ("binary_data", "binary_data_size")
"""What clients of the protocol's HTTP form write beside a tensor; over gRPC they say nothing new."""
_MICROSECONDS = 1e-6


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a request's parameters ask for; ``timeout_s`` in seconds, None where there is none."""

    capture: bool = True
    timeout_s: float | None = None


NONE = Parameters()


def read(parameters: Mapping[str, Any]) -> Parameters:
    """The parameters of a request, each an InferParameter. Raises InvalidInput."""
    if not parameters:
        return NONE
    capture, timeout_s = True, None
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
        elif name in SEQUENCES:
            if value:
                raise InvalidInput(
                    f"The parameter {name} asks for a sequence, and this server keeps nothing between requests.",
                    "Send each window whole, without it.",
                )
        elif name in (FINAL, BINARY_OUTPUTS):
            _typed(
                name, value, bool, "bool_param"
            )  # each answer is the only one and the final one, and raw if asked raw
        else:
            raise InvalidInput(f"The parameter {name[:SHOWN]!r} is unknown.", f"Known ones: {', '.join(KNOWN)}.")
    return Parameters(capture, timeout_s)


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


def _typed(name: str, value: Any, kind: type, wanted: str) -> Any:
    if type(value) is not kind:
        raise InvalidInput(f"The parameter {name} has another type than it should.", f"Send {wanted}.")
    return value
