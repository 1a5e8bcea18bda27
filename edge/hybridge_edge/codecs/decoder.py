"""Decodes the rows of one input, or says in a sentence why not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from hybridge_edge.arrays import NUMPY_TYPES, Array
from hybridge_edge.contract.codec import SCALED, Codec
from hybridge_edge.contract.errors import InvalidInput

_MODULES = {
    "jpeg": "hybridge_edge.codecs.images",
    "png": "hybridge_edge.codecs.images",
    "pcm16": "hybridge_edge.codecs.numbers",
    "raw": "hybridge_edge.codecs.numbers",
}


class Decoder:
    """Of one codec; safe to share between threads."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self._module: Any = importlib.import_module(_MODULES[codec.codec])

    def library(self) -> str:
        """What decodes, with its version. Raises Unavailable where it is not installed."""
        said: str = self._module.library()
        return said

    def check(self, element: object) -> None:
        """Refuse what is too large, or by its first bytes not the codec's: cheap, and nothing is decoded for it.

        Raises:
            InvalidInput: what is wrong and what to send.
        """
        if not isinstance(element, bytes) or not 1 <= len(element) <= self.codec.max_bytes:
            size = len(element) if isinstance(element, bytes) else 0
            raise InvalidInput(
                f"Input {self.codec.input!r} has an element of {size} bytes.", f"Send 1 to {self.codec.max_bytes}."
            )
        self._module.check(self.codec, element)

    def rows(self, encoded: Array, stopped: Callable[[], bool] = lambda: False) -> Array:
        """Decode (rows, 1) bytes objects to (rows, ...) of ``codec.decoded``.

        Args:
            stopped: asked before each row; whether nobody waits any more. The rest is then left as it is.

        Raises:
            InvalidInput: an element is refused by ``check``, or damaged.
        """
        codec = self.codec
        elements: Sequence[object] = encoded.ravel().tolist()
        made: Array = numpy.zeros((len(elements), *codec.decoded.item_shape), NUMPY_TYPES[codec.decoded.datatype])
        for row, element in zip(made, elements, strict=True):
            if stopped():
                break
            self.check(element)
            found = self._module.values(codec, element)
            if codec.decoded.datatype == SCALED and (codec.scale, codec.offset) != (1.0, 0.0):
                # Two steps, each rounded to FP32: the same bits on every machine.
                found = found.astype(numpy.float32) * numpy.float32(codec.scale) + numpy.float32(codec.offset)
            row[...] = found
        return made


def decode_inputs(codecs: Sequence[Codec], inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Inputs by name as the features graph takes them: those with a codec decoded, the others as they are."""
    decoded: dict[str, NDArray[Any]] = {
        codec.input: Decoder(codec).rows(inputs[codec.input]) for codec in codecs if codec.input in inputs
    }
    return {name: decoded.get(name, array) for name, array in inputs.items()}
