"""Checks a request's tensors against a model's signature, once, before anything is run."""

from __future__ import annotations

from collections.abc import Mapping

from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import Array


class Signature:
    """The inputs and outputs of a manifest, made ready for fast comparison.

    Attributes:
        batched: every tensor has a batch axis, so that requests may be put together in one run.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._name = manifest.name
        self._max_batch = manifest.max_batch
        self._inputs = {spec.name: (spec, NUMPY_TYPES[spec.datatype], spec.item_shape) for spec in manifest.inputs}
        self._decoders = {codec.input: Decoder(codec) for codec in manifest.codecs}
        self._outputs = {spec.name: spec for spec in manifest.outputs}
        self._all_outputs = manifest.outputs
        every = (*manifest.inputs, *manifest.features, *manifest.outputs)
        self.batched = manifest.max_batch > 1 and all(spec.shape[0] == -1 for spec in every)

    def check(self, inputs: Mapping[str, Array]) -> int:
        """Return the number of rows, or raise InvalidInput with the tensor and what it should be."""
        if inputs.keys() != self._inputs.keys():
            self._refuse_names(inputs)
        rows = 0
        for name, array in inputs.items():
            spec, dtype, item_shape = self._inputs[name]
            if array.dtype != dtype:
                raise InvalidInput(f"Input {name!r} of {self._name} is of type {array.dtype}.", _should(spec))
            batched = spec.shape[0] == -1
            if (array.shape[1:] if batched else array.shape) != item_shape or array.ndim != len(spec.shape):
                raise InvalidInput(f"Input {name!r} of {self._name} has shape {list(array.shape)}.", _should(spec))
            if dtype.hasobject and name not in self._decoders:
                self._check_texts(name, array)
            if not batched:
                continue
            size = array.shape[0]
            if not 1 <= size <= self._max_batch:
                raise InvalidInput(
                    f"Input {name!r} of {self._name} has {size} rows.", f"Send 1 to {self._max_batch} rows at once."
                )
            if rows not in (0, size):
                raise InvalidInput(f"The inputs of {self._name} have {rows} and {size} rows.", "Send the same of each.")
            rows = size
        for name, decoder in self._decoders.items():
            for element in inputs[name].flat:
                decoder.check(element)
        return rows or 1

    def select(self, names: tuple[str, ...]) -> tuple[TensorSpec, ...]:
        """The outputs asked for, in that order; () asks for all. InvalidInput where there is no such output."""
        if not names:
            return self._all_outputs
        unknown = next((name for name in names if name not in self._outputs), None)
        if unknown is not None or len(set(names)) != len(names):
            raise InvalidInput(
                f"Output {(unknown or names[0])[:80]!r} of {self._name} is unknown or asked for twice.",
                f"Outputs: {', '.join(self._outputs)}.",
            )
        return tuple(self._outputs[name] for name in names)

    def _check_texts(self, name: str, array: Array) -> None:
        """BYTES of a graph are text: ONNX stores UTF-8. Here, so that one request cannot fail a batch of others."""
        try:
            for element in array.flat:
                element.decode()
        except (UnicodeDecodeError, AttributeError):
            raise InvalidInput(
                f"Input {name!r} of {self._name} has an element that is not UTF-8.", f"Send UTF-8 text as {BYTES}."
            ) from None

    def _refuse_names(self, inputs: Mapping[str, Array]) -> None:
        wanted = ", ".join(self._inputs)
        unknown = next((name for name in inputs if name not in self._inputs), None)
        if unknown is not None:
            raise InvalidInput(f"{self._name} has no input {unknown[:80]!r}.", f"Its inputs: {wanted}.")
        missing = next(name for name in self._inputs if name not in inputs)
        raise InvalidInput(f"Input {missing!r} of {self._name} is missing.", f"Its inputs: {wanted}.")


def _should(spec: TensorSpec) -> str:
    return f"Send {spec.datatype} of shape {list(spec.shape)}."
