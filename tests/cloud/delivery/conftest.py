"""Shared by the delivery tests: a signer, signed packages, and the built components."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hybridge_cloud.components import build
from hybridge_cloud.signing import generate_key, sign_package
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.contract.package_file import MANIFEST_FILE, FileEntry
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument

WIDTH = 3


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair on disk, and what devices that trust it have."""

    key: Path
    trust_file: Path

    @property
    def trust(self) -> TrustDocument:
        return TrustDocument.from_bytes(self.trust_file.read_bytes())


PackageMaker = Callable[..., Path]


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    folder = tmp_path_factory.mktemp("keys")
    generate_key(folder / "key.pem", folder / "trust.json")
    return Signer(folder / "key.pem", folder / "trust.json")


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> PackageMaker:
    """Makes a signed package that a server can run: features doubles its input, the model adds ``bias``."""

    def make(name: str = "toy", version: str = "1.0.0", bias: float = 0.0, golden_error: float = 0.0) -> Path:
        folder = tmp_path_factory.mktemp("package") / "package"
        (folder / "golden").mkdir(parents=True)
        _graph(folder / "features.onnx", "raw", "doubled", "Mul", 2.0)
        _graph(folder / "model.onnx", "doubled", "answer", "Add", bias)
        raw = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
        np.save(folder / "golden" / "raw.npy", raw)
        np.save(folder / "golden" / "answer.npy", raw * 2 + np.float32(bias + golden_error))
        files = tuple(
            FileEntry(str(path.relative_to(folder)), sha256(path.read_bytes()), path.stat().st_size)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        )
        manifest = Manifest(
            name=name,
            version=version,
            files=files,
            inputs=(TensorSpec("raw", "FP32", (-1, WIDTH)),),
            features=(TensorSpec("doubled", "FP32", (-1, WIDTH)),),
            outputs=(TensorSpec("answer", "FP32", (-1, WIDTH)),),
            variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
            golden=Golden(
                (GoldenTensor("input", "raw", "golden/raw.npy"), GoldenTensor("output", "answer", "golden/answer.npy")),
                1e-5,
                1e-5,
            ),
            features_digest=sha256((folder / "features.onnx").read_bytes()),
            lineage=Lineage("test", sha256(b"data"), sha256(b"code"), "2026-11-23T00:00:00+00:00"),
        )
        (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
        sign_package(folder, signer.key)
        return folder

    return make


def _graph(path: Path, source: str, result: str, operator: str, constant: float) -> None:
    value = helper.make_tensor("constant", TensorProto.FLOAT, [], [constant])
    graph = helper.make_graph(
        [helper.make_node(operator, [source, "constant"], [result])],
        path.stem,
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["batch", WIDTH])],
        [value],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three components' artifacts, built once: FOLDER/NAME/ARCHITECTURE/wheelhouse.zip."""
    out = tmp_path_factory.mktemp("built")
    assert [component.template for component in build.build(out)] == list(build.COMPONENTS)
    return out
