"""One caller in a process of its own: ``python -m peers.paced_load TARGET MODEL SHAPE``.

Each line of its standard input is SECONDS RATE: it asks so many requests a second for so long, each at its time however
long the one before took, or with rate 0 one after the other. It answers with a line: {"times_us": [...], "late": how
many began after their time, "versions": [...], "asked": warming up included}. A request's time is a program's: arrays
in, arrays out, from the moment it is sent.
"""

from __future__ import annotations

import json
import sys
import time

import numpy

from hybridge_edge.client import Client

INPUT, OUTPUT = "input", "scores"
WARM_S = 0.2


def main() -> None:
    target, model, shape = sys.argv[1:]
    values = numpy.random.default_rng(5).normal(size=json.loads(shape)).astype(numpy.float32)
    with Client(target) as client:
        for line in sys.stdin:
            seconds, rate = (float(word) for word in line.split())
            warm, _, _ = _ask(client, model, values, WARM_S, rate)
            times, late, versions = _ask(client, model, values, seconds, rate)
            told = {"times_us": times, "late": late, "versions": sorted(versions), "asked": len(warm) + len(times)}
            print(json.dumps(told), flush=True)


def _ask(
    client: Client, model: str, values: numpy.typing.NDArray[numpy.float32], seconds: float, rate: float
) -> tuple[list[float], int, set[str]]:
    now = time.perf_counter
    times: list[float] = []
    versions: set[str] = set()
    late = number = 0
    begin = now()
    while (began := now()) < begin + seconds:
        if rate:
            due = begin + number / rate
            number += 1
            if due > began:
                time.sleep(due - began)
            late += due < began
            began = now()
        answer = client.infer(model, {INPUT: values}, capture=False)
        assert answer.outputs[OUTPUT].size
        times.append((now() - began) * 1e6)
        versions.add(answer.version)
    return times, late, versions


if __name__ == "__main__":
    main()
