"""One client in a process of its own: ``python -m peers.client_load KIND TARGET MODEL SHAPE``.

Each line of its standard input is a number of seconds; it asks one request after the other for so long, reads each
answer's numbers, and answers with a line: {"times_us": [...], "cpu_s": of this process}. What a program does is in the
time: arrays in, arrays out.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy

INPUT, OUTPUT = "input", "scores"
WARM_S = 0.2
OURS_ASYNCIO: dict[str, dict[str, int]] = {"ours, asyncio": {}, "ours, asyncio, stream": {"direct": 0}}
Ask = Callable[[], Any]


def ours(target: str, model: str, values: Any, **ways: int) -> Ask:
    from hybridge_edge.client import Client

    client = Client(target, **ways)  # type: ignore[arg-type]
    return lambda: client.infer(model, {INPUT: values}, capture=False).outputs[OUTPUT]


def triton(target: str, model: str, values: Any) -> Ask:
    import tritonclient.grpc as tritonclient

    client = tritonclient.InferenceServerClient(target)

    def ask() -> Any:
        tensor = tritonclient.InferInput(INPUT, list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        return client.infer(model, [tensor]).as_numpy(OUTPUT)

    return ask


def triton_stream(target: str, model: str, values: Any) -> Ask:
    import tritonclient.grpc as tritonclient

    client = tritonclient.InferenceServerClient(target)
    came: SimpleQueue[Any] = SimpleQueue()
    client.start_stream(lambda result, error: came.put((result, error)))

    def ask() -> Any:
        tensor = tritonclient.InferInput(INPUT, list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        client.async_stream_infer(model, [tensor])
        result, error = came.get()
        if error is not None:
            raise error
        return result.as_numpy(OUTPUT)

    return ask


def loop_of(ask: Ask, seconds: float) -> list[int]:
    times, now = [], time.perf_counter_ns
    until = now() + int(seconds * 1e9)
    while (began := now()) < until:
        ask()
        times.append(now() - began)
    return times


class Asynchronous:
    """Our AsyncClient, or tritonclient's for asyncio, in a loop of its own."""

    def __init__(self, kind: str, target: str, model: str, values: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._ask = self._loop.run_until_complete(self._connect(kind, target, model, values))

    async def _connect(self, kind: str, target: str, model: str, values: Any) -> Callable[[], Any]:
        if kind in OURS_ASYNCIO:
            from hybridge_edge.client import AsyncClient

            client = AsyncClient(target, **OURS_ASYNCIO[kind])  # type: ignore[arg-type]

            async def ask() -> Any:
                return (await client.infer(model, {INPUT: values}, capture=False)).outputs[OUTPUT]

            return ask
        import tritonclient.grpc.aio as tritonclient

        other = tritonclient.InferenceServerClient(target)

        async def ask_other() -> Any:
            tensor = tritonclient.InferInput(INPUT, list(values.shape), "FP32")
            tensor.set_data_from_numpy(values)
            return (await other.infer(model, [tensor])).as_numpy(OUTPUT)

        return ask_other

    def run(self, seconds: float) -> list[int]:
        return self._loop.run_until_complete(self._many(seconds))

    async def _many(self, seconds: float) -> list[int]:
        times, now = [], time.perf_counter_ns
        until = now() + int(seconds * 1e9)
        while (began := now()) < until:
            await self._ask()
            times.append(now() - began)
        return times


def main() -> None:
    kind, target, model, shape = sys.argv[1:]
    values = numpy.random.default_rng(5).normal(size=json.loads(shape)).astype(numpy.float32)
    blocking: dict[str, Callable[[], Ask]] = {
        "ours": lambda: ours(target, model, values),
        "ours, nothing shared": lambda: ours(target, model, values, shared_bytes=1 << 40),
        "ours, stream": lambda: ours(target, model, values, direct=0),
        "ours, calls only": lambda: ours(target, model, values, direct=0, streams=0),
        "tritonclient": lambda: triton(target, model, values),
        "tritonclient, stream": lambda: triton_stream(target, model, values),
    }
    if kind in blocking:
        ask = blocking[kind]()
        run: Callable[[float], list[int]] = lambda seconds: loop_of(ask, seconds)  # noqa: E731
    else:
        run = Asynchronous(kind, target, model, values).run
    for line in sys.stdin:
        run(WARM_S)
        cpu = time.process_time()
        times = run(float(line))
        print(json.dumps({"times_us": [one / 1000 for one in times], "cpu_s": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
