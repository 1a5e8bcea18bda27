"""A package of a few hundred bytes, signed, and a real ``hybridge-edge serve`` that serves it: for benchmarks.

The model answers the mean of a window per channel, times a factor, so that an answer's numbers say which package it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported at run time

from hybridge_edge import lines, runtime
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import SIGNATURE_PAYLOAD_TYPE, Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.states import Mode
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey

STEPS, CHANNELS = 8, 3
READY_S = 30.0


def write_package(folder: Path, signer: CryptoSigner, version: str, factor: float) -> Handover:
    """A signed package in ``folder``, and the hand-over of it with epoch 1."""
    window = numpy.random.default_rng(7).normal(size=(4, STEPS, CHANNELS)).astype(numpy.float32)
    raw, mean, scores = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("window", (STEPS, CHANNELS)), ("mean", (CHANNELS,)), ("scores", (CHANNELS,)))
    )
    average = helper.make_node("ReduceMean", ["window"], ["mean"], axes=[1], keepdims=0)
    times = helper.make_node("Mul", ["mean", "factor"], ["scores"])
    constant = numpy_helper.from_array(numpy.array(factor, numpy.float32), "factor")
    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(_graph(average, raw, mean))
    (folder / "model.onnx").write_bytes(_graph(times, mean, scores, constant))
    numpy.save(folder / "golden" / "window.npy", window)
    numpy.save(folder / "golden" / "scores.npy", window.mean(axis=1) * numpy.float32(factor))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    golden = (
        GoldenTensor("input", "window", "golden/window.npy"),
        GoldenTensor("output", "scores", "golden/scores.npy"),
    )
    nothing = "sha256:" + "0" * 64
    manifest = Manifest(
        name="watch",
        version=version,
        files=tuple(
            FileEntry(path.relative_to(folder).as_posix(), sha256(path.read_bytes()), path.stat().st_size)
            for path in paths
        ),
        inputs=(TensorSpec("window", "FP32", (-1, STEPS, CHANNELS)),),
        features=(TensorSpec("mean", "FP32", (-1, CHANNELS)),),
        outputs=(TensorSpec("scores", "FP32", (-1, CHANNELS)),),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(golden, 1e-4, 1e-5),
        features_digest=sha256((folder / "features.onnx").read_bytes()),
        lineage=Lineage("benchmark", nothing, nothing, "2026-11-01T00:00:00Z"),
        max_batch=8,
        confidence_output="scores",
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    envelope = Envelope(manifest.to_bytes(), SIGNATURE_PAYLOAD_TYPE, {})
    envelope.sign(signer)
    (folder / "signature.json").write_text(json.dumps(envelope.to_dict()))
    return Handover("watch", str(folder), manifest.digest, "benchmark", 1, Mode.ACTIVATE)


def _graph(node: Any, given: Any, gives: Any, *constants: Any) -> bytes:
    graph = helper.make_graph([node], "graph", [given], [gives], list(constants))
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    ).SerializeToString()
    return content


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server: its targets for gRPC, its folder, and an input for its model."""

    runtime_folder: Path
    unix: str
    tcp: str
    window: numpy.typing.NDArray[numpy.float32]

    def worker_pid(self) -> int:
        return runtime.Endpoint.read(self.runtime_folder).pid

    def say(self, line: bytes) -> dict[str, Any]:
        """A verb of the management socket."""
        answer: dict[str, Any] = json.loads(lines.ask(self.runtime_folder / runtime.MANAGEMENT_SOCKET, line, 60.0))
        return answer


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Serving]:
    """A server in ``folder`` (a short path) with the small model active, ended on leaving."""
    signer = CryptoSigner.generate_ed25519()
    key = signer.public_key
    trust = folder / "trust.json"
    trusted = TrustedKey(key.keyid, key.keytype, key.scheme, key.keyval["public"])
    trust.write_bytes(TrustDocument(1, (trusted,)).to_bytes())
    handover = write_package(folder / "package", signer, "1.0.0", 1.0)
    environment = {**os.environ, "HYBRIDGE_RUNTIME_DIR": str(folder / "run"), "HYBRIDGE_TRUST": str(trust)}
    command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(folder / "store")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen([*command, "--tcp", "127.0.0.1:0", *arguments], env=environment, stderr=log)
    try:
        until = time.monotonic() + READY_S
        while not (folder / "run" / runtime.ENDPOINT_FILE).exists():
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"The server did not start: {(folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.05)
        endpoint = runtime.Endpoint.read(folder / "run")
        window = numpy.zeros((1, STEPS, CHANNELS), numpy.float32)
        server = Serving(folder / "run", endpoint.inference, endpoint.tcp, window)
        answer = server.say(handover.to_line())
        if answer.get("state") != "ACTIVE":
            sys.exit(f"The model did not become active: {answer}")
        yield server
    finally:
        process.terminate()
        process.wait()
