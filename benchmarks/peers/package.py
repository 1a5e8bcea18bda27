"""A benchmark model as a signed package of ours, and the folder that a server of ours starts from."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported at run time

from hybridge_edge import lines, runtime
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import SIGNATURE_PAYLOAD_TYPE, Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey
from peers.models import INPUT, OUTPUT, Model
from peers.servers.session import open_session

FEATURES = "features"
GOLDEN_ROWS = 2
MAX_BATCH = 32
READY_S = 60.0


def write_package(folder: Path, model: Model, signer: CryptoSigner) -> Handover:
    """A signed package whose features are the raw input, and the hand-over of it with epoch 1."""
    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(model.identity(INPUT, FEATURES))
    (folder / "model.onnx").write_bytes(model.graph(FEATURES))
    rows = model.rows(GOLDEN_ROWS)
    (answer,) = open_session(str(folder / "model.onnx")).run([OUTPUT], {FEATURES: rows})
    numpy.save(folder / "golden" / "input.npy", rows)
    numpy.save(folder / "golden" / "scores.npy", answer)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    golden = (GoldenTensor("input", INPUT, "golden/input.npy"), GoldenTensor("output", OUTPUT, "golden/scores.npy"))
    nothing = "sha256:" + "0" * 64
    manifest = Manifest(
        name=model.name,
        version="1.0.0",
        files=tuple(
            FileEntry(path.relative_to(folder).as_posix(), sha256(path.read_bytes()), path.stat().st_size)
            for path in paths
        ),
        inputs=(TensorSpec(INPUT, "FP32", (-1, *model.shape)),),
        features=(TensorSpec(FEATURES, "FP32", (-1, *model.shape)),),
        outputs=(TensorSpec(OUTPUT, "FP32", (-1, model.classes)),),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(golden, 1e-3, 1e-4),
        features_digest=sha256((folder / "features.onnx").read_bytes()),
        lineage=Lineage("benchmark", nothing, nothing, "2026-11-01T00:00:00Z"),
        max_batch=MAX_BATCH,
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    envelope = Envelope(manifest.to_bytes(), SIGNATURE_PAYLOAD_TYPE, {})
    envelope.sign(signer)
    (folder / "signature.json").write_text(json.dumps(envelope.to_dict()))
    return Handover(model.name, str(folder), manifest.digest, "benchmark", 1)


def write_trust(path: Path, signer: CryptoSigner) -> None:
    key = signer.public_key
    trusted = TrustedKey(key.keyid, key.keytype, key.scheme, key.keyval["public"])
    path.write_bytes(TrustDocument(1, (trusted,)).to_bytes())


def command(folder: Path, tcp: str) -> list[str]:
    """``hybridge-edge serve`` over the store in ``folder``."""
    return [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(folder / "store"), "--tcp", tcp]


def activate(folder: Path, environment: dict[str, str], models: Sequence[Model]) -> None:
    """Have the store in ``folder`` hold the models as its active ones: what a device has when it boots.

    Raises:
        RuntimeError: the server does not start, or refuses a package; with its reason.
    """
    signer = CryptoSigner.generate_ed25519()
    write_trust(folder / "trust.json", signer)
    log = folder / "activation.log"
    with log.open("wb") as file:
        server = subprocess.Popen(command(folder, ""), env=environment, stdin=subprocess.DEVNULL, stderr=file)
    try:
        socket = folder / "run" / runtime.MANAGEMENT_SOCKET
        until = time.monotonic() + READY_S
        while not (folder / "run" / runtime.ENDPOINT_FILE).exists():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"hybridge-edge serve did not start: {log.read_text()[-500:]}")
            time.sleep(0.02)
        for model in models:
            handover = write_package(folder / "packages" / model.name, model, signer)
            answer = json.loads(lines.ask(socket, handover.to_line(), READY_S))
            if answer.get("state") != "ACTIVE":
                raise RuntimeError(f"{model.name} did not become active: {answer}")
    finally:
        server.terminate()
        server.wait()
        (folder / "run" / runtime.ENDPOINT_FILE).unlink(missing_ok=True)
