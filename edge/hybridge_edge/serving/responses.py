"""From an answer of the service to the bytes of a ModelInferResponse.

Who answered and what the tensors are is the same in answer after answer of one version: those bytes are made once. An
answer's own are its ids, its times and its tensors, which are written behind them (see ``wire_format``).

Parameters of a response: ``sample_id``, ``provider``, ``package_digest`` (strings); ``queue_us``, ``copy_us``,
``features_us``, ``infer_us``, ``total_us`` (int64, microseconds); ``guard`` (string) where a guard of the package flags
the answer. ``copy_us`` is reading the request, and putting requests together and their answers apart; writing this
response is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.serving.contents import TYPED, Part, raw_part
from hybridge_edge.serving.service import Answer
from hybridge_edge.serving.wire_format import field, varint

MAX_KEPT = 256
"""Beginnings of responses that are kept: one for each version, set of outputs and number of rows."""
_Response = messages.ModelInferResponse
_ID, _PARAMETERS = _Response.ID_FIELD_NUMBER, _Response.PARAMETERS_FIELD_NUMBER
_RAW = _Response.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_KEY, _VALUE = 1, 2  # of an entry of a map
_INT64_TAG = bytes((messages.InferParameter.INT64_PARAM_FIELD_NUMBER << 3,))
_STRING = messages.InferParameter.STRING_PARAM_FIELD_NUMBER
_LONGEST_VARINT = 10
_RAW_TAG = field(_RAW, b"")[:1]


def _before_number(name: str) -> tuple[bytes, ...]:
    """What stands before the digits of an int64 parameter, by how many bytes these take."""
    key = field(_KEY, name.encode())
    made = [b""]
    for size in range(1, _LONGEST_VARINT + 1):
        value = field(_VALUE, _INT64_TAG + bytes(size))
        made.append(field(_PARAMETERS, key + value)[:-size])
    return tuple(made)


_QUEUE, _COPY, _FEATURES, _INFER, _TOTAL = (
    _before_number(f"{name}_us") for name in ("queue", "copy", "features", "infer", "total")
)
_SAMPLE_ID, _GUARD = field(_KEY, b"sample_id"), field(_KEY, b"guard")
_beginnings: dict[tuple[object, ...], bytes] = {}


def encode(
    answer: Answer,
    request_id: str,
    *,
    raw: bool,
    decode_us: int,
    aside: list[tuple[int, memoryview]] | None = None,
    room: int = 0,
) -> list[Part]:
    """A serialized ModelInferResponse, in parts to be joined.

    Args:
        request_id: comes back as it was sent; "" gets the sample's id. raw: as the request's tensors came; a datatype
            that the protocol has no list for goes raw in any case. decode_us: what reading the request took.
        aside: takes (index, raw contents) of large outputs, which the message then lacks, up to ``room`` bytes of them.
    """
    raw = raw or any(spec.datatype not in TYPED for spec, _ in answer.outputs)
    parts: list[Part] = [
        _beginning(answer) if raw else _typed(answer),
        field(_ID, (request_id or answer.sample_id).encode()),
        _text(_SAMPLE_ID, answer.sample_id),
    ]
    for before, number in (
        (_QUEUE, answer.queue_us),
        (_COPY, decode_us + answer.copy_us),
        (_FEATURES, answer.features_us),
        (_INFER, answer.infer_us),
        (_TOTAL, decode_us + answer.total_us),
    ):
        if 0 <= number < 1 << 7:
            parts += (before[1], bytes((number,)))
        elif 0 <= number < 1 << 14:
            parts += (before[2], bytes((number & 0x7F | 0x80, number >> 7)))
        else:
            digits = varint(max(number, 0))
            parts += (before[len(digits)], digits)
    if answer.guard:
        parts.append(_text(_GUARD, answer.guard))
    if raw:
        for index, (_, array) in enumerate(answer.outputs):
            content = raw_part(array)
            if aside is not None and isinstance(content, memoryview) and len(content) <= room:
                room -= len(content)
                aside.append((index, content))
                continue
            parts += (_RAW_TAG, varint(len(content)), content)
    return parts


def size(parts: Sequence[Part]) -> int:
    """Bytes of all parts."""
    return sum(map(len, parts))


def _beginning(answer: Answer) -> bytes:
    key = (answer.digest, answer.provider, *[(spec.name, array.shape) for spec, array in answer.outputs])
    found = _beginnings.get(key)
    if found is None:
        if len(_beginnings) >= MAX_KEPT:
            _beginnings.clear()
        found = _beginnings[key] = bytes(_message(answer).SerializeToString())
    return found


def _typed(answer: Answer) -> bytes:
    message = _message(answer)
    for tensor, (spec, array) in zip(message.outputs, answer.outputs, strict=True):
        getattr(tensor.contents, TYPED[spec.datatype]).extend(array.ravel().tolist())
    return bytes(message.SerializeToString())


def _message(answer: Answer) -> messages.ModelInferResponse:
    message = _Response(model_name=answer.model, model_version=answer.version)
    message.parameters["provider"].string_param = answer.provider
    message.parameters["package_digest"].string_param = answer.digest
    for spec, array in answer.outputs:
        message.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
    return message


def _text(key: bytes, value: str) -> bytes:
    """A string parameter; ``key`` is its name, written already."""
    return field(_PARAMETERS, key + field(_VALUE, field(_STRING, value.encode())))
