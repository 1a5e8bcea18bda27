"""A signed package whose input is a JPEG, a PNG or numbers: its answer is the mean of each channel, times a factor."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hybridge_cloud.compile.codecs import codec_files, stripes
from hybridge_cloud.training.task import Samples
from hybridge_edge.arrays import for_file, of_bytes
from hybridge_edge.codecs.decoder import Decoder
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.tensors import TensorSpec

MODEL = "picture"
HEIGHT, WIDTH = 24, 32


def jpeg_codec(**changes: Any) -> Codec:
    spec = TensorSpec("picture", "FP32", (-1, HEIGHT, WIDTH, 3))
    plain = Codec("picture", "jpeg", spec, colour="RGB", layout="HWC", fit="exact", scale=1 / 255)
    return replace(plain, **changes)


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> numpy.ndarray:
    """(height, width, 3) uint8: the card, brightened at one end."""
    ramp = numpy.linspace(0.3, 1.0, width)[None, :, None]
    return (numpy.roll(stripes(height, width), seed, axis=1) * ramp).astype(numpy.uint8)


def encode(pixels: numpy.ndarray, kind: str = "jpeg", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind.upper(), **({"quality": 90} if kind == "jpeg" else {}), **options)
    return content.getvalue()


def build(folder: Path, kit: ModuleType, codec: Codec, version: str = "1.0.0", factor: float = 1.0) -> Manifest:
    """Write the package; what its goldens say is what this process decodes."""
    shape = codec.decoded.shape
    raw = helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["batch", *shape[1:]])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", shape[3]])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", shape[3]])
    files: dict[str, bytes] = {}
    for name, nodes, ends, constants in (
        ("features", [helper.make_node("ReduceMean", ["picture"], ["mean"], axes=[1, 2], keepdims=0)], (raw, mean), []),
        (
            "model",
            [helper.make_node("Mul", ["mean", "factor"], ["scores"])],
            (mean, scores),
            [numpy_helper.from_array(numpy.array(factor, numpy.float32), "factor")],
        ),
    ):
        graph = helper.make_graph(nodes, "graph", [ends[0]], [ends[1]], constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        onnx.checker.check_model(made)
        files[f"{name}.onnx"] = made.SerializeToString()
    encoded = of_bytes([encode(scene(seed), codec.codec) for seed in range(4)])
    rows = numpy.array(["a", "b", "c", "d"])
    codecs = codec_files((codec,), Samples(rows, {"picture": encoded}, numpy.zeros(4, numpy.int64), rows))
    files |= codecs.files
    decoded = Decoder(codec).rows(encoded)
    for path, array in (
        ("golden/in.npy", encoded),
        ("golden/out.npy", decoded.mean(axis=(1, 2)) * numpy.float32(factor)),
    ):
        content = io.BytesIO()
        numpy.save(content, for_file(array), allow_pickle=False)
        files[path] = content.getvalue()
    manifest = Manifest(
        name=MODEL,
        version=version,
        files=tuple(FileEntry(path, sha256(content), len(content)) for path, content in files.items()),
        inputs=(TensorSpec("picture", "BYTES", (-1, 1)),),
        features=(TensorSpec("mean", "FP32", (-1, shape[3])),),
        outputs=(TensorSpec("scores", "FP32", (-1, shape[3])),),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(
            (GoldenTensor("input", "picture", "golden/in.npy"), GoldenTensor("output", "scores", "golden/out.npy")),
            0.05,
            0.05,  # wide, so that what refuses a decoder is the comparison of what it decodes
        ),
        features_digest=sha256(files["features.onnx"]),
        lineage=Lineage("run-1", "sha256:" + "0" * 64, "sha256:" + "1" * 64, "2026-11-01T00:00:00Z"),
        max_batch=8,
        confidence_output="scores",
        codecs=codecs.codecs,
    )
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    kit.sign(folder, kit.signer())
    return manifest
