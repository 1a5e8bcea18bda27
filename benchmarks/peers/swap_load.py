"""The independent process of hotswap.py: callers that never retry and check every answer's numbers.

``python -m peers.swap_load TARGET TRUTH CALLERS OUT`` asks over gRPC until its standard input ends, answers each line
of it with a line of its counts so far, and writes every request to OUT (.npz) at the end.
TRUTH is a file: {version: [digest, factor]}.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import numpy
from small_model import CHANNELS, STEPS

from hybridge_edge.contract.protos import open_inference_pb2 as messages
from peers.callers import UnaryCaller

RIGHT, FAILED, MISLABELLED = 0, 1, 2
PAUSE_AFTER_FAILURE_S = 0.01
"""So that a server that is gone is not asked a million times."""
MAX_REASONS = 20
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Truth:
    """What each version must answer: its package's digest and the factor in its numbers."""

    versions: dict[str, tuple[str, float]]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.versions))

    @classmethod
    def read(cls, path: Path) -> Truth:
        found = json.loads(path.read_text())
        return cls({name: (digest, factor) for name, (digest, factor) in found.items()})


class Asker(Thread):
    """One caller: a connection of its own, one request after the other."""

    def __init__(self, target: str, truth: Truth, seed: int, stop: Event) -> None:
        super().__init__(daemon=True)
        window = numpy.random.default_rng(seed).normal(1.0, 1.0, (1, STEPS, CHANNELS)).astype(numpy.float32)
        request = messages.ModelInferRequest(model_name="watch")
        request.inputs.add(name="window", datatype="FP32", shape=window.shape)
        request.raw_input_contents.append(window.tobytes())
        self._caller = UnaryCaller(target, request.SerializeToString())
        self._means = window.mean(axis=(0, 1), dtype=numpy.float64)
        self._truth = truth.versions
        self._stop_asking = stop
        self.began = array("q")
        self.took = array("q")
        self.code = array("b")
        self.versions: dict[str, int] = {}
        self.reasons: list[str] = []

    def run(self) -> None:
        now = time.monotonic_ns
        while not self._stop_asking.is_set():
            began = now()
            answer: Any = None
            try:
                answer = self._caller.ask()
            except grpc.RpcError as error:
                self._note(f"{error.code().name}: {error.details()}")
            took = now() - began
            code = FAILED if answer is None else self._judge(messages.ModelInferResponse.FromString(answer))
            self.began.append(began)
            self.took.append(took)
            self.code.append(code)
            if code == FAILED:
                time.sleep(PAUSE_AFTER_FAILURE_S)
        self._caller.close()

    def _judge(self, answer: Any) -> int:
        version = answer.model_version
        self.versions[version] = self.versions.get(version, 0) + 1
        digest, factor = self._truth.get(version, ("", 0.0))
        said = answer.parameters["package_digest"].string_param
        found = numpy.frombuffer(answer.raw_output_contents[0], "<f4")
        wanted = self._means * factor
        if said == digest and found.shape == wanted.shape and numpy.allclose(found, wanted, _TOLERANCE, _TOLERANCE):
            return RIGHT
        self._note(f"{version} ({said[:19]}) answered {found}; its own weights answer {wanted}")
        return MISLABELLED

    def _note(self, reason: str) -> None:
        if len(self.reasons) < MAX_REASONS:
            self.reasons.append(reason[:300])


def main(target: str, truth: str, callers: str, out: str) -> None:
    stop = Event()
    askers = [Asker(target, Truth.read(Path(truth)), seed, stop) for seed in range(int(callers))]
    for asker in askers:
        asker.start()
    for _ in sys.stdin:
        counts = [sum(asker.code.count(code) for asker in askers) for code in (RIGHT, FAILED, MISLABELLED)]
        print(json.dumps(counts), flush=True)
    stop.set()
    for asker in askers:
        asker.join()
    numpy.savez(
        out,
        began=numpy.concatenate([numpy.frombuffer(asker.began, numpy.int64) for asker in askers]),
        took=numpy.concatenate([numpy.frombuffer(asker.took, numpy.int64) for asker in askers]),
        code=numpy.concatenate([numpy.frombuffer(asker.code, numpy.int8) for asker in askers]),
    )
    versions: dict[str, int] = {}
    for asker in askers:
        for version, count in asker.versions.items():
            versions[version] = versions.get(version, 0) + count
    reasons = [reason for asker in askers for reason in asker.reasons]
    print(json.dumps({"versions": versions, "reasons": reasons[:MAX_REASONS]}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
