"""``hybridge-edge infer``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy

from hybridge_edge.arrays import NUMPY_TYPES, from_file, of_bytes
from hybridge_edge.cli import network
from hybridge_edge.cli.talk import tell
from hybridge_edge.client import Client, InferenceAnswer
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import Array
from hybridge_edge.serving.contents import MAX_TEXT_BYTES

TIMEOUT_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True)
    parser.add_argument(
        "--input",
        required=True,
        action="append",
        metavar="[NAME=]FILE",
        help="a raw input, a .npy file with or without the batch axis, or for an encoded input a file as it is, such "
        "as a JPEG; the name may be left out where there is one input",
    )
    parser.add_argument("--version", default="", help="default: the active one")
    parser.add_argument("--sample-id", default="", help="default: a new one")
    parser.add_argument("--no-capture", action="store_true", help="the device may not keep this sample")
    network.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask once and print the answer as JSON. Returns the exit code."""
    remote = network.remote(arguments)
    specs = inputs_of(arguments.model) if remote is None else remote.inputs_of(arguments.model)
    arrays = dict(read_input(text, specs) for text in arguments.input)
    with Client.connect() if remote is None else Client(remote.address, tls=remote.tls) as client:
        answer = client.infer(
            arguments.model,
            arrays,
            version=arguments.version,
            sample_id=arguments.sample_id,
            capture=not arguments.no_capture,
            timeout_s=TIMEOUT_S,
        )
    print(json.dumps(_to_json(answer), indent=2))
    return 0


def inputs_of(model: str) -> dict[str, TensorSpec]:
    """The raw inputs of a model, as the running server says them."""
    reader, _ = tell(canonical({"verb": "describe", "model": model}), TIMEOUT_S)
    return {spec.name: spec for spec in reader.objects("inputs", TensorSpec.read)}


def read_input(text: str, specs: dict[str, TensorSpec]) -> tuple[str, Array]:
    """The name and array of ``[NAME=]FILE``, batch first, of the input's type. Raises UsageError."""
    name, _, file = text.rpartition("=")
    if not name:
        if len(specs) != 1:
            raise UsageError(f"The model has the inputs {', '.join(specs)}.", "Write --input NAME=FILE.npy for each.")
        (name,) = specs
    spec = specs.get(name)
    encoded = spec is not None and spec.datatype == BYTES and spec.shape == (-1, 1)
    try:
        with Path(file).open("rb") as content:
            if encoded and content.peek(6)[:6] != b"\x93NUMPY":
                return name, of_bytes([content.read(MAX_TEXT_BYTES + 1)])
            array: Array = from_file(numpy.lib.format.read_array(content, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{file} cannot be read as a numpy array: {error}.", "Save it with numpy.save.") from None
    if spec is not None and spec.shape[0] == -1 and array.shape == spec.item_shape:
        array = array[numpy.newaxis]
    if spec is not None and numpy.can_cast(array.dtype, NUMPY_TYPES[spec.datatype], "same_kind"):
        array = array.astype(NUMPY_TYPES[spec.datatype], copy=False)
    return name, array


def _to_json(answer: InferenceAnswer) -> dict[str, object]:
    return {
        "model": answer.model,
        "version": answer.version,
        "digest": answer.digest,
        "sample_id": answer.sample_id,
        "provider": answer.provider,
        **({"guard": answer.guard} if answer.guard else {}),
        "outputs": {name: _listed(array) for name, array in answer.outputs.items()},
        "microseconds": {
            "queue": answer.queue_us,
            "copy": answer.copy_us,
            "features": answer.features_us,
            "infer": answer.infer_us,
            "total": answer.total_us,
        },
    }


def _listed(array: Array) -> object:
    """Nested lists, BYTES as text."""
    if array.dtype.hasobject:
        array = numpy.array([element.decode("utf-8", "backslashreplace") for element in array.flat]).reshape(
            array.shape
        )
    return array.tolist()
