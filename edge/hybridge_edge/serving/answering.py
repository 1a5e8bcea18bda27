"""Bytes in, bytes out: one inference as every transport has it answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter_ns

from hybridge_edge.serving import requests, responses
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import Call
from hybridge_edge.serving.contents import Part
from hybridge_edge.serving.service import Service

Begin = Callable[[float | None], Call]
"""Makes a request's call from the request's own limit in seconds."""


class Answering:
    """For the callers of one lane."""

    def __init__(self, service: Service, arrivals: Arrivals, peer: str) -> None:
        self._service = service
        self._arrivals = arrivals
        self._peer = peer

    def answer(self, message: bytes, begin: Begin) -> list[Part]:
        """A serialized ModelInferRequest in, a ModelInferResponse out, in parts. Raises as ``Service.infer``."""
        return self.placed(message, begin, {}, 0)[0]

    def placed(
        self, message: bytes, begin: Begin, beside: Mapping[int, bytes], room: int
    ) -> tuple[list[Part], list[tuple[int, memoryview]]]:
        """The same where tensors lie elsewhere.

        Args:
            beside: raw contents of inputs that the message lacks, by index. room: bytes for outputs elsewhere.

        Returns:
            The response, and what it lacks: (index, raw contents) of large outputs, which fit into ``room`` together.
        """
        aside: list[tuple[int, memoryview]] = []
        with self._arrivals.enter(self._peer):
            came = perf_counter_ns()
            request = requests.decode(message, beside)
            decode_us = (perf_counter_ns() - came) // 1000
            answer = self._service.infer(request.inference, begin(request.timeout_s))
            parts = responses.encode(answer, request.id, raw=request.raw, decode_us=decode_us, aside=aside, room=room)
        return parts, aside
