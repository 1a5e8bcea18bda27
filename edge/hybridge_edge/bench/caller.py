"""One caller: ``python -m hybridge_edge.bench.caller``, a process of its own, started by ``load``.

It reads a job as one JSON line, asks a few times, says that it is ready, waits for a second line, asks one request
after the other until the time is up, and says what it measured.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy

from hybridge_edge.arrays import from_file
from hybridge_edge.bench.tally import Tally, rounded
from hybridge_edge.bench.transports import Transport, connect
from hybridge_edge.client import ClientTls
from hybridge_edge.client.targets import quiet_grpc
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.engine import Array

WARM_UP = 10
"""Requests before the clock runs."""
AFTER_ERROR_S = 0.001
"""A caller that is refused asks again, and not in a hot loop."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a caller does; ``inputs``: names, and the .npy files that hold them."""

    transport: str
    address: str
    model: str
    seconds: float
    inputs: tuple[tuple[str, str], ...]
    tls: ClientTls | None = None

    def to_line(self) -> bytes:
        inputs = [{"name": name, "file": file} for name, file in self.inputs]
        tls = self.tls
        files = {} if tls is None else {"ca": str(tls.ca), "certificate": str(tls.certificate), "key": str(tls.key),
                                        "name": tls.server_name}  # fmt: skip
        return canonical({"transport": self.transport, "address": self.address, "model": self.model,
                          "seconds": self.seconds, "inputs": inputs, "tls": files})  # fmt: skip

    @classmethod
    def from_line(cls, line: str) -> Job:
        reader = parse(line, "job")
        job = cls(
            reader.text("transport"),
            reader.text("address"),
            reader.text("model"),
            reader.number("seconds"),
            reader.objects("inputs", lambda one: (one.text("name"), one.text("file"))),
            reader.object("tls", _tls),
        )
        reader.close()
        return job


def _tls(reader: Reader) -> ClientTls | None:
    if not reader.names():
        return None
    return ClientTls(reader.text("ca"), reader.text("certificate"), reader.text("key"), reader.text("name"))


def main() -> int:
    """Do one job; a refusal is said on the output, as ready and tally are. Returns the exit code."""
    quiet_grpc()
    try:
        job = Job.from_line(sys.stdin.readline())
        inputs = {name: from_file(numpy.load(Path(file), allow_pickle=False)) for name, file in job.inputs}
        transport = connect(job.transport, job.address, job.tls)
        try:
            for _ in range(WARM_UP):
                transport.ask(job.model, inputs)
            _say({"ready": True})
            if sys.stdin.readline():
                _say({"tally": ask_until(transport, job.model, inputs, job.seconds).to_json()})
        finally:
            transport.close()
    except HybridgeError as error:
        _say({"error": error.code, "message": error.message, "remedy": error.remedy})
        return 1
    return 0


def ask_until(transport: Transport, model: str, inputs: Mapping[str, Array], seconds: float) -> Tally:
    """Ask one request after the other for ``seconds``."""
    tally = Tally()
    began = time.perf_counter()
    until = began + seconds
    while (before := time.perf_counter()) < until:
        try:
            answer = transport.ask(model, inputs)
        except HybridgeError as error:
            tally.errors[error.code] = tally.errors.get(error.code, 0) + 1
            time.sleep(AFTER_ERROR_S)
            continue
        took = rounded(round((time.perf_counter() - before) * 1e6))
        tally.durations[took] = tally.durations.get(took, 0) + 1
        tally.versions[answer.version] = tally.versions.get(answer.version, 0) + 1
        tally.providers[answer.provider] = tally.providers.get(answer.provider, 0) + 1
        tally.guarded += bool(answer.guard)
        stages = tally.stages
        stages["queue"] += answer.queue_us
        stages["copy"] += answer.copy_us
        stages["features"] += answer.features_us
        stages["infer"] += answer.infer_us
        stages["total"] += answer.total_us
    tally.seconds = time.perf_counter() - began
    return tally


def read_tally(reader: Reader) -> Tally:
    return reader.object("tally", Tally.read)


def _say(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
