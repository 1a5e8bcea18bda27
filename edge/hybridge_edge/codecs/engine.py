"""An engine whose inputs are decoded first, inside its run: whoever runs it, in a trial or for a caller, decodes."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import Cancelled, HybridgeError, PackageRefused
from hybridge_edge.engine import Arrays, Engine, EngineResult, Stop


class DecodingEngine:
    """``engine`` with the codecs of its package before it. ``features_us`` of a run has the decoding in it.

    Raises:
        PackageRefused: step load: what decodes is not installed.
    """

    def __init__(self, engine: Engine, codecs: Sequence[Codec]) -> None:
        self._engine = engine
        self._decoders = {codec.input: Decoder(codec) for codec in codecs}
        for decoder in self._decoders.values():
            try:
                decoder.library()
            except HybridgeError as error:
                raise PackageRefused(error.message, error.remedy, step="load") from None

    @property
    def provider(self) -> str:
        return self._engine.provider

    @provider.setter
    def provider(self, name: str) -> None:
        self._engine.provider = name

    @property
    def degraded(self) -> str:
        return self._engine.degraded

    @degraded.setter
    def degraded(self, reason: str) -> None:
        self._engine.degraded = reason

    def run(self, inputs: Arrays, stop: Stop | None = None, state: Arrays | None = None) -> EngineResult:
        """Decode and run. Raises InvalidInput where an input cannot be decoded; a stop is heeded between rows."""
        start = perf_counter_ns()
        decoded = {
            name: self._decoders[name].rows(array, lambda: stop is not None and stop.asked)
            if name in self._decoders
            else array
            for name, array in inputs.items()
        }
        if stop is not None and stop.asked:
            raise Cancelled("The run was stopped while its inputs were decoded.")
        decode_us = (perf_counter_ns() - start) // 1000
        result = self._engine.run(decoded, stop, state)
        return result._replace(features_us=result.features_us + decode_us)

    def close(self) -> None:
        self._engine.close()
