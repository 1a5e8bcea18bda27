"""A Greengrass Lambda function's handler that asks this device's server: ``hybridge_edge.lambda_adapter.handler``.

Where it applies: Lambda functions imported as components on the classic nucleus of Greengrass V2 (they need the Lambda
launcher, manager and runtimes components). Greengrass V1, which had Lambda functions first and ran on Snowball Edge
too, was ended by AWS on 7 October 2026; nucleus lite runs no Lambda functions. greengrasssdk, the SDK of both, has had
no release since March 2022. A component of one's own that uses ``hybridge_edge.client`` is the better choice wherever
there is one; this is for functions that exist.

An event is an inference request of the Open Inference Protocol V2 in its JSON form, with the model's name in it::

    {"model_name": "watch", "id": "optional", "inputs": [{"name": "window", "datatype": "FP32", "shape": [1, 2],
     "data": [0.5, 1.5]}]}

and so is the answer: ``{"model_name", "model_version", "id", "outputs": [...]}``, or ``{"error", "code"}``. ``data`` is
flat or nested; numbers that JSON has not (NaN, infinities) are null.

The function's environment: HYBRIDGE_ENDPOINT, ``unix:PATH`` or ``127.0.0.1:8001``, where it cannot see the server's
runtime folder (a Lambda in a container sees only what is mounted into it); HYBRIDGE_RESULT_TOPIC, where each answer is
published too, empty for nowhere. Only the second needs greengrasssdk, which is imported then.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from hybridge_edge.arrays import DATATYPES, NUMPY_TYPES, Array
from hybridge_edge.client import Client, InferenceAnswer
from hybridge_edge.contract.errors import HybridgeError, InvalidInput, Refused, Unavailable
from hybridge_edge.contract.tensors import BYTES

TOPIC_VARIABLE = "HYBRIDGE_RESULT_TOPIC"
MAX_INPUTS = 64
MAX_PUBLISHED_BYTES = 128 * 1024
"""AWS IoT Core takes no larger message (AWS IoT Core quotas)."""
_lock = threading.Lock()
_client: Client | None = None


def handler(event: object, context: object = None) -> dict[str, Any]:
    """Answer one event. Never raises: what goes wrong is an answer with ``error`` and ``code``."""
    try:
        answer = _answer(event)
        if topic := os.environ.get(TOPIC_VARIABLE, ""):
            publish(topic, answer)
    except HybridgeError as error:
        return {"error": str(error), "code": error.code}
    return answer


def publish(topic: str, answer: Mapping[str, Any]) -> None:
    """Publish an answer as JSON through the core of this device.

    Raises:
        Unavailable: there is no greengrasssdk, no core below it, or its queue is full. Refused: it is too large.
    """
    payload = json.dumps(answer, allow_nan=False).encode()
    if len(payload) > MAX_PUBLISHED_BYTES:
        raise Refused(
            f"The answer has {len(payload)} bytes, and a message at most {MAX_PUBLISHED_BYTES}.",
            "Ask for fewer rows, or publish nothing.",
        )
    try:
        import greengrasssdk

        # Without this policy a full queue drops messages and says nothing.
        greengrasssdk.client("iot-data").publish(topic=topic, payload=payload, queueFullPolicy="AllOrException")
    except ImportError as error:
        raise Unavailable(
            f"Nothing can be published: there is no module {error.name}.",
            "Put greengrasssdk into the function; what it needs is there only inside a core's Lambda runtime.",
        ) from None
    except Exception as error:  # the SDK and the core below it raise classes of their own
        said = f"{type(error).__name__} {error}".strip()[:300]
        raise Unavailable(f"The core does not publish on {topic}: {said}.", "See the core's own log.") from None


def _answer(event: object) -> dict[str, Any]:
    global _client
    if not isinstance(event, Mapping) or not isinstance(event.get("model_name"), str):
        raise InvalidInput("The event names no model.", "Send an object with model_name and inputs.")
    inputs = event.get("inputs")
    if not isinstance(inputs, list) or not 0 < len(inputs) <= MAX_INPUTS:
        raise InvalidInput("The event has no list of inputs.", "Send inputs: [{name, datatype, shape, data}].")
    arrays = dict(_array(one) for one in inputs)
    with _lock:
        if _client is None:
            _client = Client.connect()
        client = _client
    try:
        found = client.infer(event["model_name"], arrays, sample_id=str(event.get("id") or ""))
    except Unavailable:
        with _lock:  # the next call looks up anew where the server listens; a call under way keeps its connection
            _client = None
        raise
    return _json(found)


def _array(tensor: object) -> tuple[str, Array]:
    """A tensor of the protocol's JSON form as an array. Raises InvalidInput."""
    fields: Mapping[str, Any] = tensor if isinstance(tensor, Mapping) else {}
    name, datatype, shape = fields.get("name"), fields.get("datatype"), fields.get("shape")
    if not isinstance(name, str) or not isinstance(shape, list) or not all(type(s) is int and s >= 0 for s in shape):
        raise InvalidInput("An input has no name or no shape.", "Send {name, datatype, shape, data}.")
    if not isinstance(datatype, str) or datatype not in NUMPY_TYPES:
        raise InvalidInput(f"The input {name[:80]!r} has no datatype of the protocol.", "Such as FP32, INT64 or BYTES.")
    dtype = NUMPY_TYPES[datatype]
    try:
        given: Array = np.array(fields.get("data"), dtype=object)
        flat = given.reshape(-1).tolist()
        if not all(_fits(value, dtype.kind) for value in flat):
            raise TypeError("an element is of another kind")
        values = [value.encode() if isinstance(value, str) else value for value in flat]
        return name, np.array(values, dtype=dtype).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"The data of {name[:80]!r} are no {datatype} of shape {shape}: {error}.") from None


def _fits(value: object, kind: str) -> bool:
    """Whether a JSON value is one of a numpy kind, without rounding: null is a NaN, among floating numbers alone."""
    if kind == "f":
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    wanted = {"O": str, "b": bool}.get(kind, int)
    return type(value) is wanted


def _json(found: InferenceAnswer) -> dict[str, Any]:
    outputs = []
    for name, array in found.outputs.items():
        datatype = DATATYPES.get(array.dtype, BYTES)
        outputs.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "data": [_value(value) for value in array.reshape(-1).tolist()],
            }
        )
    return {
        "model_name": found.model,
        "model_version": found.version,
        "id": found.sample_id,
        "outputs": outputs,
    }


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value
