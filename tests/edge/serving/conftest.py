"""Packages small enough to build in a test, signed for real, and servers run as the processes they are.

The model of version V answers ``scores = (mean of the window per channel) * V's factor``, so that an answer's numbers
prove which weights made it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
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

from hybridge_edge import lines
from hybridge_edge.activation import Activation
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.manifest import (
    SIGNATURE_PAYLOAD_TYPE,
    FileEntry,
    Golden,
    GoldenTensor,
    Lineage,
    Manifest,
    Probe,
    Variant,
)
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey
from hybridge_edge.engine import Engine, load
from hybridge_edge.gate import Gate
from hybridge_edge.package import Package
from hybridge_edge.runtime import Endpoint
from hybridge_edge.service import Answer, Inference, Service
from hybridge_edge.standing import standing
from hybridge_edge.store import Store

STEPS, CHANNELS = 8, 3
MODEL = "watch"
ORDER = (0, 1, 2)
"""Of the scores; another one is a model whose outputs are shuffled."""
READY_WITHIN_S = 30.0
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
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        files.append(FileEntry(path.relative_to(folder).as_posix(), sha256(content), len(content)))
    manifest = Manifest(
        name=name,
        version=version,
        files=tuple(files),
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


@pytest.fixture
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
        Store(store_folder), service, lambda: trust_of(signer()), lambda package: load(package, 1), lambda: None
    )
    answer = activation.hand_over(built.handover(1))
    activation.close()
    assert answer.state is PackageState.ACTIVE, answer


class Device:
    """A store with what runs on it; ``restart`` begins again from the disk."""

    def __init__(self, folder: Path, trust: TrustDocument) -> None:
        self.folder, self.trust = folder, trust
        self.changes = 0
        self.loads = 0
        self.live_share = 0.0
        self.start()

    def start(self) -> None:
        self.store = Store(self.folder)
        self.service = Service(Gate(2), lambda model, digest: self.activation.proven(model, digest), self.live_share)
        self.activation = Activation(self.store, self.service, lambda: self.trust, self.load, self.count)
        self.activation.restore()
        self.service.live.start()

    def load(self, package: Package) -> Engine:
        self.loads += 1
        return load(package, 1)

    def count(self) -> None:
        self.changes += 1

    def stop(self) -> None:
        self.service.live.close()
        self.activation.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def ask(self, values: numpy.ndarray, version: str = "") -> Answer:
        return self.service.infer(Inference(MODEL, version, "", {"window": values}), 5.0)

    def serves(self, version: str = "") -> tuple[str, float]:
        """The version that answers, and the factor its numbers show."""
        answer = self.ask(window(), version)
        (_, found), *_ = answer.outputs
        return answer.version, round(float(found.sum() / window().mean(axis=1).sum()), 3)

    def reports(self) -> dict[str, ModelReport]:
        return {report.version: report for report in standing(self.store, self.service)}

    def states(self) -> dict[str, PackageState]:
        return {version: report.state for version, report in self.reports().items()}


@pytest.fixture
def device(tmp_path: Path, trust: TrustDocument) -> Iterator[Device]:
    one = Device(tmp_path / "store", trust)
    yield one
    one.stop()


@dataclass
class Server:
    """``hybridge-edge serve`` as a process, in a short runtime folder of its own."""

    store: Path
    runtime: Path
    environment: dict[str, str]
    arguments: list[str]
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def start(self, *, wait: bool = True, **environment: str) -> Server:
        (self.runtime / "endpoint.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(self.store), *self.arguments]
        self.process = subprocess.Popen(
            command, env={**self.environment, **environment}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if wait:
            self.wait()
        return self

    def wait(self, not_pid: int = 0) -> Endpoint:
        """Until endpoint.json names a worker that answers (and is not ``not_pid``)."""
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"serve ended with {self.process.returncode}: {self.errors()}")
            if (self.runtime / "endpoint.json").exists():
                endpoint = Endpoint.read(self.runtime)
                if endpoint.pid != not_pid and _alive(endpoint.pid):
                    return endpoint
            time.sleep(0.02)
        pytest.fail("serve did not become ready")

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.read(self.runtime)

    def say(self, **request: object) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", json.dumps(request).encode() + b"\n", 60))

    def hand_over(self, handover: Handover) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", handover.to_line(), 60))

    def errors(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill_tree(self) -> None:
        """kill -9 of the supervisor and its worker, as a power cut would."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        _, self.said = self.process.communicate(timeout=30)
        return self.process.returncode


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def server(short: Path, trust: TrustDocument) -> Iterator[Server]:
    """A server that is not started yet; whatever is left of it is killed at the end."""
    trust_file = short / "trust.json"
    trust_file.write_bytes(trust.to_bytes())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDGE_", "AWS_"))},
        "HYBRIDGE_RUNTIME_DIR": str(short / "run"),
        "HYBRIDGE_TRUST": str(trust_file),
    }
    one = Server(short / "store", short / "run", environment, ["--tcp", "127.0.0.1:0"])
    yield one
    if one.process is not None and one.process.poll() is None:
        one.kill_tree()
