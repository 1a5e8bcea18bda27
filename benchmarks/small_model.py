"""A package of a few hundred bytes, and a server that serves it.

The model answers the mean of a window per channel, times a factor, so that an answer's numbers say which package it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import our_server
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge import runtime
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.tensors import TensorSpec

STEPS, CHANNELS = 8, 3


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
    tensors = (
        TensorSpec("window", "FP32", (-1, STEPS, CHANNELS)),
        TensorSpec("mean", "FP32", (-1, CHANNELS)),
        TensorSpec("scores", "FP32", (-1, CHANNELS)),
    )
    golden = ("golden/window.npy", "golden/scores.npy")
    return our_server.seal(folder, signer, "watch", version, tensors, golden, max_batch=8, confidence=True)


def _graph(node: Any, given: Any, gives: Any, *constants: Any) -> bytes:
    graph = helper.make_graph([node], "graph", [given], [gives], list(constants))
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    ).SerializeToString()
    return content


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server: its targets for gRPC, its runtime folder, and an input for its model."""

    runtime_folder: Path
    unix: str
    tcp: str
    window: numpy.typing.NDArray[numpy.float32]

    def worker_pid(self) -> int:
        return runtime.Endpoint.read(self.runtime_folder).pid


@contextmanager
def serving(folder: Path) -> Iterator[Serving]:
    """A server in ``folder`` (a short path) with the small model active, ended on leaving."""
    signer = CryptoSigner.generate_ed25519()
    our_server.write_trust(folder, signer)
    handover = write_package(folder / "package", signer, "1.0.0", 1.0)
    with our_server.running(folder, "127.0.0.1:0") as endpoint:
        our_server.activate(folder, handover)
        window = numpy.zeros((1, STEPS, CHANNELS), numpy.float32)
        yield Serving(folder / "run", endpoint.inference, endpoint.tcp, window)
