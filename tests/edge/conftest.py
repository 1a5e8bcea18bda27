"""Packages small enough to build in a test, signed for real.

The model of version V answers ``scores = (mean of the window per channel) * V's factor``, so that an answer's numbers
prove which weights made it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner

from hybridge_edge.admission.activation import Activation
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor, Probe
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import SIGNATURE_PAYLOAD_TYPE, Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.state import State
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey
from hybridge_edge.engine import load
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store

STEPS, CHANNELS = 8, 3
MODEL = "watch"
ORDER = (0, 1, 2)
"""Of the scores; another one is a model whose outputs are shuffled."""
_SIGNERS: list[CryptoSigner] = []


def signer(number: int = 0) -> CryptoSigner:
    """The test's keys: 0 is trusted, the others are strangers."""
    while len(_SIGNERS) <= number:
        _SIGNERS.append(CryptoSigner.generate_ed25519())
    return _SIGNERS[number]


def trust_of(*signers: CryptoSigner, threshold: int = 1) -> TrustDocument:
    keys = [one.public_key for one in signers]
    return TrustDocument(
        threshold, tuple(TrustedKey(key.keyid, key.keytype, key.scheme, key.keyval["public"]) for key in keys)
    )


def window(rows: int = 1, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(size=(rows, STEPS, CHANNELS)).astype(numpy.float32)


def scores(values: numpy.ndarray, factor: float, order: tuple[int, ...] = ORDER) -> numpy.ndarray:
    """What a package of that factor must answer."""
    return (values.mean(axis=1) * numpy.float32(factor))[:, order]


def _graph(nodes: list, inputs: list, outputs: list, constants: list) -> bytes:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def features_graph() -> bytes:
    raw = helper.make_tensor_value_info("window", TensorProto.FLOAT, ["batch", STEPS, CHANNELS])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", CHANNELS])
    node = helper.make_node("ReduceMean", ["window"], ["mean"], axes=[1], keepdims=0)
    return _graph([node], [raw], [mean], [])


def model_graph(factor: float, order: tuple[int, ...] = ORDER) -> bytes:
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", CHANNELS])
    out = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CHANNELS])
    constant = numpy_helper.from_array(numpy.array(factor, numpy.float32), "factor")
    places = numpy_helper.from_array(numpy.array(order, numpy.int64), "places")
    multiply = helper.make_node("Mul", ["mean", "factor"], ["multiplied"])
    gather = helper.make_node("Gather", ["multiplied", "places"], ["scores"], axis=1)
    return _graph([multiply, gather], [mean], [out], [constant, places])


@dataclass
class Built:
    """A package's folder and what it is."""

    folder: Path
    manifest: Manifest
    factor: float
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        self.digest = self.manifest.digest

    def handover(self, epoch: int, mode: Mode = Mode.ACTIVATE) -> Handover:
        return Handover(self.manifest.name, str(self.folder), self.digest, f"rollout-{epoch}", epoch, mode)


def sign(folder: Path, *signers: CryptoSigner) -> None:
    envelope = Envelope((folder / "manifest.json").read_bytes(), SIGNATURE_PAYLOAD_TYPE, {})
    for one in signers:
        envelope.sign(one)
    (folder / "signature.json").write_text(json.dumps(envelope.to_dict()))


def _listed(folder: Path) -> tuple[FileEntry, ...]:
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        files.append(FileEntry(path.relative_to(folder).as_posix(), sha256(content), len(content)))
    return tuple(files)


def build(
    folder: Path,
    version: str = "1.0.0",
    factor: float = 1.0,
    *,
    signers: tuple[CryptoSigner, ...] | None = None,
    golden_error: float = 0.0,
    graph: bytes | None = None,
    name: str = MODEL,
    order: tuple[int, ...] = ORDER,
    probes: int = 0,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Built:
    """Write a signed package. ``golden_error`` makes its golden outputs wrong by that; ``probes`` is their rows."""
    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(features_graph())
    (folder / "model.onnx").write_bytes(model_graph(factor, order) if graph is None else graph)
    numpy.save(folder / "golden" / "window.npy", window(4, seed=7))
    numpy.save(folder / "golden" / "scores.npy", scores(window(4, seed=7), factor, order) + numpy.float32(golden_error))
    if probes:
        (folder / "probes").mkdir()
        numpy.save(folder / "probes" / "window.npy", window(probes, seed=11))
    manifest = Manifest(
        name=name,
        version=version,
        files=_listed(folder),
        inputs=(TensorSpec("window", "FP32", (-1, STEPS, CHANNELS), "g"),),
        features=(TensorSpec("mean", "FP32", (-1, CHANNELS)),),
        outputs=(TensorSpec("scores", "FP32", (-1, CHANNELS)),),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(
            (
                GoldenTensor("input", "window", "golden/window.npy"),
                GoldenTensor("output", "scores", "golden/scores.npy"),
            ),
            1e-4,
            1e-5,
        ),
        features_digest=sha256(features_graph()),
        lineage=Lineage("run-1", "sha256:" + "0" * 64, "sha256:" + "1" * 64, "2026-11-01T00:00:00Z"),
        labels=("left", "right", "still"),
        max_batch=8,
        confidence_output="scores",
        probes=(Probe("window", "probes/window.npy"),) if probes else (),
    )
    manifest = change(manifest)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    sign(folder, *(signers or (signer(),)))
    return Built(folder, manifest, factor)


def echo_name(datatype: str) -> str:
    """The model that ``build_echo`` makes of a datatype."""
    return f"echo-{datatype.lower()}"


def echo_values(datatype: str, rows: int = 2) -> numpy.ndarray:
    """(rows, 3) elements of a datatype, its extremes among them; BYTES are bytes objects."""
    if datatype == "BYTES":
        texts = [b"", "sch\u00f6n \u2603".encode(), b"a\0b", b"x" * 300, b"\n", b"/"]
        return numpy.array([texts[place % len(texts)] for place in range(rows * 3)], object).reshape(rows, 3)
    dtype = NUMPY_TYPES[datatype]
    if datatype == "BOOL":
        chosen = [True, False, False, True]
    elif dtype.kind == "f":
        chosen = [0.5, -numpy.inf, numpy.nan, numpy.finfo(dtype).max]
    else:
        chosen = [0, numpy.iinfo(dtype).max, numpy.iinfo(dtype).min, 7]
    return numpy.array([chosen[place % 4] for place in range(rows * 3)], dtype).reshape(rows, 3)


def build_echo(folder: Path, datatype: str, width: int = 3, *, wrong: bool = False) -> Built:
    """A package whose answer ``y`` is its input ``x``, (rows, width) of a datatype; ``wrong`` goldens say otherwise."""

    def identity(given: str, made: str) -> bytes:
        kind = TensorProto.STRING if datatype == "BYTES" else helper.np_dtype_to_tensor_dtype(NUMPY_TYPES[datatype])
        tensors = [helper.make_tensor_value_info(name, kind, ["batch", width]) for name in (given, made)]
        return _graph([helper.make_node("Identity", [given], [made])], tensors[:1], tensors[1:], [])

    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(identity("x", "kept"))
    (folder / "model.onnx").write_bytes(identity("kept", "y"))
    golden = numpy.array([[b"a", b"bc", b""]]) if datatype == "BYTES" else numpy.ones((1, width), NUMPY_TYPES[datatype])
    numpy.save(folder / "golden" / "x.npy", golden)
    numpy.save(folder / "golden" / "y.npy", golden[:, ::-1] if wrong else golden)
    manifest = Manifest(
        name=echo_name(datatype),
        version="1.0.0",
        files=_listed(folder),
        inputs=(TensorSpec("x", datatype, (-1, width)),),
        features=(TensorSpec("kept", datatype, (-1, width)),),
        outputs=(TensorSpec("y", datatype, (-1, width)),),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(
            (GoldenTensor("input", "x", "golden/x.npy"), GoldenTensor("output", "y", "golden/y.npy")), 0.0, 0.0
        ),
        features_digest=sha256((folder / "features.onnx").read_bytes()),
        lineage=Lineage("run-1", "sha256:" + "0" * 64, "sha256:" + "1" * 64, "2026-11-01T00:00:00Z"),
        max_batch=8,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    sign(folder, signer())
    return Built(folder, manifest, 1.0)


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """This module, for its functions: tests cannot import a conftest by name."""
    return sys.modules[__name__]


@pytest.fixture
def packages(tmp_path: Path) -> Callable[..., Built]:
    """Builds a package, each in a folder of its own: see ``build``."""
    count = iter(range(1000))
    return lambda *arguments, **options: build(tmp_path / f"package-{next(count)}", *arguments, **options)


@pytest.fixture
def trust() -> TrustDocument:
    return trust_of(signer())


def activate(store_folder: Path, built: Built) -> None:
    """Have a package be the active one of a store before any server starts on it."""
    service = Service(Gate(1), lambda model, digest: None)
    activation = Activation(
        Store(store_folder),
        service,
        lambda: trust_of(signer()),
        lambda package, without: load(package, 1),
        lambda: None,
    )
    answer = activation.hand_over(built.handover(1))
    activation.close()
    assert answer.state is PackageState.ACTIVE, answer


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Wait until something is so; 20 s at most."""

    def wait(condition: Callable[[], bool]) -> None:
        event = threading.Event()
        for _ in range(2000):
            if condition():
                return
            event.wait(0.01)
        raise AssertionError("it did not happen within 20 s")

    return wait


COUNTER = "counter"
WIDTH = 2


def counting_graphs() -> tuple[bytes, bytes]:
    """Features: ``smooth = (x + before) * 0.5``, and ``before`` becomes x. Model: ``sum`` of all that was smoothed,
    times a factor, beside how many there were; what it adds to begins at 100."""

    def value(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    half = numpy_helper.from_array(numpy.array(0.5, numpy.float32), "half")
    one = numpy_helper.from_array(numpy.array([1], numpy.int64), "one")
    features = _graph(
        [
            helper.make_node("Add", ["x", "before"], ["both"]),
            helper.make_node("Mul", ["both", "half"], ["smooth"]),
            helper.make_node("Identity", ["x"], ["after"]),
        ],
        [value("x", TensorProto.FLOAT, ["batch", WIDTH]), value("before", TensorProto.FLOAT, [1, WIDTH])],
        [value("smooth", TensorProto.FLOAT, ["batch", WIDTH]), value("after", TensorProto.FLOAT, ["batch", WIDTH])],
        [half],
    )
    model = _graph(
        [
            helper.make_node("Add", ["total", "smooth"], ["next"]),
            helper.make_node("Add", ["seen", "one"], ["seen_next"]),
            helper.make_node("Identity", ["next"], ["sum"]),
            helper.make_node("Identity", ["seen_next"], ["count"]),
        ],
        [
            value("smooth", TensorProto.FLOAT, ["batch", WIDTH]),
            value("total", TensorProto.FLOAT, [1, WIDTH]),
            value("seen", TensorProto.INT64, [1]),
        ],
        [
            value("sum", TensorProto.FLOAT, ["batch", WIDTH]),
            value("count", TensorProto.INT64, [1]),
            value("next", TensorProto.FLOAT, ["batch", WIDTH]),
            value("seen_next", TensorProto.INT64, [1]),
        ],
        [one],
    )
    return features, model


BEGINS_AT = 100.0


def counted(values: numpy.ndarray) -> numpy.ndarray:
    """What the model must answer to each of the (steps, WIDTH) values of one sequence, (steps, WIDTH)."""
    before = numpy.vstack([numpy.zeros((1, WIDTH), numpy.float32), values[:-1]])
    steps = numpy.vstack([numpy.full((1, WIDTH), BEGINS_AT, numpy.float32), (values + before) * numpy.float32(0.5)])
    return numpy.add.accumulate(steps, dtype=numpy.float32)[1:]


def steps_of(seed: int = 0, count: int = 5) -> numpy.ndarray:
    return numpy.random.default_rng(seed).normal(size=(count, WIDTH)).astype(numpy.float32)


def build_counter(
    folder: Path,
    version: str = "1.0.0",
    *,
    probes: int = 0,
    golden_error: float = 0.0,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Built:
    """A package with states in both graphs, of two datatypes; its golden arrays are one sequence of five steps."""
    features, model = counting_graphs()
    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(features)
    (folder / "model.onnx").write_bytes(model)
    numpy.save(folder / "golden" / "x.npy", steps_of(7))
    numpy.save(folder / "golden" / "sum.npy", counted(steps_of(7)) + numpy.float32(golden_error))
    if probes:
        (folder / "probes").mkdir()
        numpy.save(folder / "probes" / "x.npy", steps_of(11, probes))
    manifest = Manifest(
        name=COUNTER,
        version=version,
        files=_listed(folder),
        inputs=(TensorSpec("x", "FP32", (-1, WIDTH)),),
        features=(TensorSpec("smooth", "FP32", (-1, WIDTH)),),
        outputs=(TensorSpec("sum", "FP32", (-1, WIDTH)), TensorSpec("count", "INT64", (1,))),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(
            (GoldenTensor("input", "x", "golden/x.npy"), GoldenTensor("output", "sum", "golden/sum.npy")), 0.0, 0.0
        ),
        features_digest=sha256(features),
        lineage=Lineage("run-1", "sha256:" + "0" * 64, "sha256:" + "1" * 64, "2026-11-01T00:00:00Z"),
        max_batch=1,
        confidence_output="sum",
        probes=(Probe("x", "probes/x.npy"),) if probes else (),
        states=(
            State("before", "after", "FP32", (1, WIDTH), "features"),
            State("total", "next", "FP32", (1, WIDTH), initial=BEGINS_AT),
            State("seen", "seen_next", "INT64", (1,)),
        ),
    )
    manifest = change(manifest)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    sign(folder, signer())
    return Built(folder, manifest, 1.0)
