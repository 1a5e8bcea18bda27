"""How long a rollback takes on a device: told over the management socket of a real server, to a resident version.

    python benchmarks/rollback.py [--rounds 50] [--out benchmarks/results/rollback.json]

For a small model and for one of 64 MB: each round activates version 1 and version 2, then rolls back by the operator's
verb, which writes the ledger and switches a pointer, and asks which version answers. Beside it, as a yardstick, the
same from the disk: the server is started again in between, so that version 1 has to be loaded first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy
import onnx
import our_server
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.tensors import TensorSpec

RESULT = Path(__file__).resolve().parent / "results" / "rollback.json"
MODEL = "scaled"
SIZES = {"small": 4, "64 MB": 4096}
"""Columns of a square matrix of float32 that the model multiplies with."""
DISK_ROUNDS = 5


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hybrb", dir="/tmp") as temporary:  # short, for the sockets
        measured = {
            name: measure(Path(temporary) / str(columns), columns, options.rounds) for name, columns in SIZES.items()
        }
    result = {
        "command": f"python benchmarks/rollback.py --rounds {options.rounds}",
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "milliseconds": measured,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


def measure(folder: Path, columns: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a rollback, from the request to the answer."""
    folder.mkdir()
    signer = CryptoSigner.generate_ed25519()
    our_server.write_trust(folder, signer)
    one, two = (build(folder / str(number), columns, float(number), signer) for number in (1, 2))
    resident, from_disk, epoch = [], [], 0
    with our_server.running(folder):
        for _ in range(rounds):
            for built in (one, two):
                epoch += 1
                hand_over(folder, built, epoch)
            resident.append(roll_back(folder))
    for _ in range(DISK_ROUNDS):
        with our_server.running(folder):
            for built in (one, two):
                epoch += 1
                hand_over(folder, built, epoch)
        with our_server.running(folder):
            from_disk.append(roll_back(folder))
    return {"resident": summary(resident), "from disk": summary(from_disk)}


def summary(milliseconds: list[float]) -> dict[str, float]:
    return {
        "rounds": len(milliseconds),
        "median": round(statistics.median(milliseconds), 2),
        "largest": round(max(milliseconds), 2),
    }


def roll_back(folder: Path) -> float:
    began = time.perf_counter()
    answer = ask(folder, {"verb": "rollback", "model": MODEL})
    took = (time.perf_counter() - began) * 1000
    if answer.get("version") != "1.0.0" or ask(folder, {"verb": "describe", "model": MODEL})["version"] != "1.0.0":
        sys.exit(f"rollback: the server answered {answer}")
    return took


def hand_over(folder: Path, package: Handover, epoch: int) -> None:
    our_server.activate(folder, replace(package, epoch=epoch))


def ask(folder: Path, request: dict[str, str]) -> dict[str, object]:
    return our_server.ask(folder, canonical(request))


def build(folder: Path, columns: int, factor: float, signer: CryptoSigner) -> Handover:
    """A signed package: features are the input, scores = features @ (factor * identity)."""
    folder.mkdir()
    rows = numpy.arange(2 * columns, dtype=numpy.float32).reshape(2, columns) / columns
    numpy.save(folder / "input.npy", rows)
    numpy.save(folder / "output.npy", rows * numpy.float32(factor))
    matrix = numpy_helper.from_array(numpy.eye(columns, dtype=numpy.float32) * numpy.float32(factor), "matrix")
    (folder / "features.onnx").write_bytes(graph(helper.make_node("Identity", ["rows"], ["features"]), columns, []))
    node = helper.make_node("MatMul", ["features", "matrix"], ["scores"])
    (folder / "model.onnx").write_bytes(graph(node, columns, [matrix]))
    tensors = (
        TensorSpec("rows", "FP32", (-1, columns)),
        TensorSpec("features", "FP32", (-1, columns)),
        TensorSpec("scores", "FP32", (-1, columns)),
    )
    return our_server.seal(folder, signer, MODEL, f"{factor:.0f}.0.0", tensors, ("input.npy", "output.npy"))


def graph(node: onnx.NodeProto, columns: int, constants: list[onnx.TensorProto]) -> bytes:
    shape: list[str | int | None] = ["batch", columns]
    made = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(node.input[0], TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
