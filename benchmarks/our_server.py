"""What every benchmark of ours needs: files made a signed package, and a real ``hybridge-edge serve`` to believe it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge import lines, runtime
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import SIGNATURE_PAYLOAD_TYPE, Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey

READY_S = 60.0
_NOTHING = "sha256:" + "0" * 64


def seal(
    folder: Path,
    signer: CryptoSigner,
    name: str,
    version: str,
    tensors: tuple[TensorSpec, TensorSpec, TensorSpec],
    golden: tuple[str, str],
    *,
    rtol: float = 1e-4,
    max_batch: int = 32,
    confidence: bool = False,
) -> Handover:
    """Make a signed package of a folder that holds features.onnx, model.onnx and golden arrays; its hand-over, epoch 1.

    Args:
        tensors: raw input, features and output. golden: paths of the input's and the output's array.
        confidence: whether the output is the model's confidence.
    """
    raw, features, output = tensors
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = Manifest(
        name=name,
        version=version,
        files=tuple(
            FileEntry(path.relative_to(folder).as_posix(), sha256(path.read_bytes()), path.stat().st_size)
            for path in paths
        ),
        inputs=(raw,),
        features=(features,),
        outputs=(output,),
        variants=(Variant("cpu", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
        golden=Golden(
            (GoldenTensor("input", raw.name, golden[0]), GoldenTensor("output", output.name, golden[1])),
            rtol,
            rtol / 10,
        ),
        features_digest=sha256((folder / "features.onnx").read_bytes()),
        lineage=Lineage("benchmark", _NOTHING, _NOTHING, "2026-11-01T00:00:00Z"),
        max_batch=max_batch,
        confidence_output=output.name if confidence else "",
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    envelope = Envelope(manifest.to_bytes(), SIGNATURE_PAYLOAD_TYPE, {})
    envelope.sign(signer)
    (folder / "signature.json").write_text(json.dumps(envelope.to_dict()))
    return Handover(name, str(folder), manifest.digest, "benchmark", 1)


def write_trust(folder: Path, signer: CryptoSigner) -> None:
    """Have servers in ``folder`` believe what ``signer`` signed."""
    key = signer.public_key
    trusted = TrustedKey(key.keyid, key.keytype, key.scheme, key.keyval["public"])
    (folder / "trust.json").write_bytes(TrustDocument(1, (trusted,)).to_bytes())


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a server that lives in ``folder`` (a short path, for its sockets)."""
    return {**os.environ, "HYBRIDGE_RUNTIME_DIR": str(folder / "run"), "HYBRIDGE_TRUST": str(folder / "trust.json")}


def command(folder: Path, tcp: str = "", python: str = sys.executable) -> list[str]:
    """``hybridge-edge serve`` over the store in ``folder``, run by ``python``."""
    return [python, "-m", "hybridge_edge.cli", "serve", "--store", str(folder / "store"), "--tcp", tcp]


@contextmanager
def running(folder: Path, tcp: str = "", environment: Mapping[str, str] | None = None) -> Iterator[runtime.Endpoint]:
    """A server in ``folder``, ready, ended on leaving; its log is server.log there.

    Raises:
        RuntimeError: it does not start; with the end of its log.
    """
    ready, log = folder / "run" / runtime.ENDPOINT_FILE, folder / "server.log"
    ready.unlink(missing_ok=True)
    with log.open("ab") as file:
        server = subprocess.Popen(
            command(folder, tcp), env=environment or surroundings(folder), stdin=subprocess.DEVNULL, stderr=file
        )
    try:
        until = time.monotonic() + READY_S
        while not ready.exists():
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"hybridge-edge serve did not start: {log.read_text()[-500:]}")
            time.sleep(0.02)
        yield runtime.Endpoint.read(folder / "run")
    finally:
        server.terminate()
        server.wait()


def ask(folder: Path, line: bytes) -> dict[str, object]:
    """A line of the management socket and its answer."""
    answer: dict[str, object] = json.loads(lines.ask(folder / "run" / runtime.MANAGEMENT_SOCKET, line, READY_S))
    return answer


def activate(folder: Path, handover: Handover) -> None:
    """Hand over, and be sure that it is active. Raises RuntimeError with the server's answer where it is not."""
    answer = ask(folder, handover.to_line())
    if answer.get("state") != "ACTIVE":
        raise RuntimeError(f"{handover.model} did not become active: {answer}")
