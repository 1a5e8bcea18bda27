"""An application of its own that asks every device for answers at a steady rate, and writes down each one.

    python -m hybridge_cloud.demo.load --probes probes.npz --model watch --rate 50 --out FOLDER DEVICE=ENDPOINT...

It stands for the user's program: it is started before anything changes, is never stopped while things change, and never
retries. A request is due every 1/rate seconds whatever became of the one before; one that is not answered OK within its
deadline is failed. SIGTERM ends it; it then writes FOLDER/DEVICE.npz:

    sent_at (n,) float64 seconds since 1970     latency (n,) float64 seconds     code (n,) int16 gRPC status, 0 is OK
    probe (n,) int16 row of the probes          version (n,) <U16 as the server said     answer (n, classes) float32
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract.protos import open_inference_pb2 as wire
from hybridge_edge.contract.protos import open_inference_pb2_grpc as services
from hybridge_edge.stopping import stop_event

DEADLINE_SECONDS = 1.0
MOST_RECORDS = 2_000_000
_NO_RETRIES = [("grpc.enable_retries", 0)]


@dataclass(slots=True)
class Ledger:
    """Every request of one device, in the order it was sent."""

    sent_at: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    code: list[int] = field(default_factory=list)
    probe: list[int] = field(default_factory=list)
    version: list[str] = field(default_factory=list)
    answer: list[NDArray[np.float32]] = field(default_factory=list)

    def write(self, path: Path, classes: int) -> None:
        answers = np.stack(self.answer) if self.answer else np.zeros((0, classes), np.float32)
        with path.open("wb") as file:
            np.savez(
                file,
                sent_at=np.array(self.sent_at),
                latency=np.array(self.latency),
                code=np.array(self.code, np.int16),
                probe=np.array(self.probe, np.int16),
                version=np.array(self.version, "<U16"),
                answer=answers.astype(np.float32),
            )


def requests_for(windows: NDArray[np.float32], model: str, input_name: str) -> list[wire.ModelInferRequest]:
    """One request a window, built once. They ask not to be captured: the load is no data of the field."""
    built = []
    for window in windows:
        request = wire.ModelInferRequest(model_name=model)
        tensor = request.inputs.add(name=input_name, datatype="FP32", shape=[1, *window.shape])
        tensor.SetInParent()
        request.raw_input_contents.append(np.ascontiguousarray(window, np.float32).tobytes())
        request.parameters["hybridge_capture"].bool_param = False
        built.append(request)
    return built


def ask(
    endpoint: str,
    requests: list[wire.ModelInferRequest],
    classes: int,
    rate: float,
    stop: threading.Event,
    ledger: Ledger,
) -> None:
    """Send at ``rate`` a second until ``stop``; nothing is sent twice."""
    nothing = np.full(classes, np.nan, np.float32)
    with grpc.insecure_channel(endpoint, options=_NO_RETRIES) as channel:
        infer = services.GRPCInferenceServiceStub(channel).ModelInfer  # type: ignore[no-untyped-call]  # generated
        begin, count = time.monotonic(), 0
        while not stop.is_set() and count < MOST_RECORDS:
            wait = begin + count / rate - time.monotonic()
            if wait > 0:
                stop.wait(wait)
                if stop.is_set():
                    break
            probe = count % len(requests)
            count += 1
            ledger.sent_at.append(time.time())
            ledger.probe.append(probe)
            started = time.perf_counter()
            try:
                response = infer(requests[probe], timeout=DEADLINE_SECONDS)
            except grpc.RpcError as error:
                ledger.latency.append(time.perf_counter() - started)
                ledger.code.append(int(error.code().value[0]))
                ledger.version.append("")
                ledger.answer.append(nothing)
                continue
            ledger.latency.append(time.perf_counter() - started)
            ledger.code.append(0)
            ledger.version.append(response.model_version)
            answer = (
                np.frombuffer(response.raw_output_contents[0], np.float32) if response.raw_output_contents else nothing
            )
            ledger.answer.append(answer if answer.shape == (classes,) else nothing)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hybridge-load", description="Ask devices for answers at a steady rate.")
    parser.add_argument("--probes", type=Path, required=True, help=".npz with windows (n, ...) and classes ()")
    parser.add_argument("--model", required=True)
    parser.add_argument("--input", default="window")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second and device")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("devices", nargs="+", metavar="DEVICE=ENDPOINT")
    options = parser.parse_args(arguments)
    with np.load(options.probes, allow_pickle=False) as probes:
        windows, classes = probes["windows"], int(probes["classes"])
    requests = requests_for(windows, options.model, options.input)
    with stop_event() as stop:
        options.out.mkdir(parents=True, exist_ok=True)
        ledgers = {name: Ledger() for name in (device.split("=", 1)[0] for device in options.devices)}
        threads = [
            threading.Thread(
                target=ask,
                args=(endpoint, requests, classes, options.rate, stop, ledgers[name]),
                name=name,
                daemon=True,
            )
            for name, endpoint in (device.split("=", 1) for device in options.devices)
        ]
        for thread in threads:
            thread.start()
        while not stop.is_set():
            stop.wait(1.0)
        for thread in threads:
            thread.join(DEADLINE_SECONDS * 5)
        for name, ledger in ledgers.items():
            ledger.write(options.out / f"{name}.npz", classes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
