"""What a client of ours reads; what it writes is in ``client.wording``, the server's side in ``requests``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import from_raw, from_typed, in_order, layout

_NOTHING: Mapping[int, bytes | memoryview] = {}


def decode_response(
    response: messages.ModelInferResponse, aside: Mapping[int, bytes | memoryview] = _NOTHING
) -> dict[str, Array]:
    """A response's outputs by name, raw or typed. Raises InvalidInput where it contradicts itself.

    Args:
        aside: raw contents that came another way, by index; the arrays are views of them.
    """
    raw: Sequence[Any] = response.raw_output_contents
    if aside:
        raw = in_order(raw, aside)
    if raw and len(raw) != len(response.outputs):
        raise InvalidInput("The response has other numbers of outputs and raw contents.")
    arrays = {}
    for place, tensor in enumerate(response.outputs):
        wanted = layout(tensor.name, tensor.datatype, tensor.shape)
        arrays[tensor.name] = from_raw(wanted, raw[place]) if raw else from_typed(wanted, tensor.contents)
    return arrays
