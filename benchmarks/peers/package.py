"""A benchmark model as a signed package of ours, and a store that has it active, as a device has when it boots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import our_server
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.tensors import TensorSpec
from peers.models import INPUT, OUTPUT, Model
from peers.servers.session import open_session

FEATURES = "features"
GOLDEN_ROWS = 2


def write_package(
    folder: Path,
    model: Model,
    signer: CryptoSigner,
    version: str = "1.0.0",
    *,
    confidence: bool = False,
    max_batch: int = 32,
) -> Handover:
    """A signed package whose features are the raw input, and the hand-over of it with epoch 1.

    Args:
        confidence: whether its output is the model's confidence. max_batch: rows of a request at most.
    """
    (folder / "golden").mkdir(parents=True)
    (folder / "features.onnx").write_bytes(model.identity(INPUT, FEATURES))
    (folder / "model.onnx").write_bytes(model.graph(FEATURES))
    rows = model.rows(GOLDEN_ROWS)
    (answer,) = open_session(str(folder / "model.onnx")).run([OUTPUT], {FEATURES: rows})
    numpy.save(folder / "golden" / "input.npy", rows)
    numpy.save(folder / "golden" / "scores.npy", answer)
    tensors = (
        TensorSpec(INPUT, "FP32", (-1, *model.shape)),
        TensorSpec(FEATURES, "FP32", (-1, *model.shape)),
        TensorSpec(OUTPUT, "FP32", (-1, model.classes)),
    )
    golden = ("golden/input.npy", "golden/scores.npy")
    return our_server.seal(
        folder, signer, model.name, version, tensors, golden, rtol=1e-3, confidence=confidence, max_batch=max_batch
    )


def activate(folder: Path, environment: dict[str, str], models: Sequence[Model]) -> None:
    """Have the store in ``folder`` hold the models as its active ones.

    Raises:
        RuntimeError: the server does not start, or refuses a package; with its reason.
    """
    signer = CryptoSigner.generate_ed25519()
    our_server.write_trust(folder, signer)
    with our_server.running(folder, environment=environment):
        for model in models:
            our_server.activate(folder, write_package(folder / "packages" / model.name, model, signer))
    (folder / "run" / "endpoint.json").unlink(missing_ok=True)
