"""A request's bytes. What is the same in request after request is written once (see ``wire_format``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from hybridge_edge.arrays import DATATYPES
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import Part, named, raw_part
from hybridge_edge.serving.parameters import CAPTURE, SEQUENCE_END, SEQUENCE_ID, SEQUENCE_START, TIMEOUT
from hybridge_edge.serving.sequences import Step
from hybridge_edge.serving.wire_format import LENGTH_DELIMITED, field, varint

_Request = messages.ModelInferRequest
_ID, _RAW = _Request.ID_FIELD_NUMBER, _Request.RAW_INPUT_CONTENTS_FIELD_NUMBER
_RAW_TAG = bytes((_RAW << 3 | LENGTH_DELIMITED,))
_KEPT = 256
_Tensor = tuple[str, str, tuple[int, ...]]


def request(
    model: str,
    version: str,
    sample_id: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    capture: bool,
    timeout_us: int,
    step: Step | None = None,
) -> bytes:
    """A serialized ModelInferRequest with raw tensors; see ``parts``."""
    return b"".join(
        parts(model, version, sample_id, inputs, outputs, capture=capture, timeout_us=timeout_us, step=step)
    )


def parts(
    model: str,
    version: str,
    sample_id: str,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    capture: bool,
    timeout_us: int,
    step: Step | None = None,
    place: Callable[[int, Array], bool] | None = None,
) -> list[Part]:
    """A serialized ModelInferRequest with raw tensors, in parts to be joined; arrays of bytes or text go as BYTES.

    Args:
        outputs: which are wanted, () for all. timeout_us: the request's own limit in microseconds, 0 for none.
        step: the request's place in a sequence, None where it is of none.
        place: told the index of an input and its array, little-endian; whether it has put that elsewhere.

    Raises:
        InvalidInput: an array's type is one the protocol has no name for.
    """
    tensors: list[_Tensor] = []
    raws: list[Part] = []
    for name, array in inputs.items():
        datatype = None if array.dtype.hasobject else DATATYPES.get(array.dtype)
        little = array
        if datatype is None:
            datatype, little = named(name, array)
        tensors.append((name, datatype, little.shape))
        if place is not None and place(len(tensors) - 1, little):
            continue
        content = raw_part(little)
        raws += (_RAW_TAG, varint(len(content)), content)
    beginning = _beginning(model, version, tuple(tensors), tuple(outputs), capture, timeout_us, step)
    return [beginning, field(_ID, sample_id.encode()) if sample_id else b"", *raws]


@lru_cache(_KEPT)
def _beginning(
    model: str,
    version: str,
    tensors: tuple[_Tensor, ...],
    outputs: tuple[str, ...],
    capture: bool,
    timeout_us: int,
    step: Step | None,
) -> bytes:
    made = _Request(model_name=model, model_version=version)
    if not capture:
        made.parameters[CAPTURE].bool_param = False
    if timeout_us:
        made.parameters[TIMEOUT].int64_param = timeout_us
    if step is not None:
        _name_sequence(made, step)
    for name, datatype, shape in tensors:
        made.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        made.outputs.add(name=name)
    return bytes(made.SerializeToString(deterministic=True))


def _name_sequence(made: messages.ModelInferRequest, step: Step) -> None:
    if isinstance(step.id, int):
        made.parameters[SEQUENCE_ID].uint64_param = step.id
    else:
        made.parameters[SEQUENCE_ID].string_param = step.id
    if step.start:
        made.parameters[SEQUENCE_START].bool_param = True
    if step.end:
        made.parameters[SEQUENCE_END].bool_param = True
