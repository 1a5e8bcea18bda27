"""One document of each kind, used to write the golden files and to try what the readers refuse."""

from __future__ import annotations

import struct
from dataclasses import replace

from hybridge_edge.contract.batch import BatchManifest
from hybridge_edge.contract.codec import Codec, CodecGolden
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.contract.package_file import FileEntry
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.sample import Sample
from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch
from hybridge_edge.contract.state import State
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.telemetry import Telemetry
from hybridge_edge.contract.tensors import Tensor, TensorSpec
from hybridge_edge.contract.window import Window

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "0c" * 32

MANIFEST = Manifest(
    name="watch",
    version="1.2.3",
    files=(
        FileEntry("features.onnx", DIGEST, 1200),
        FileEntry("golden/probabilities.npy", OTHER, 352),
        FileEntry("golden/window.npy", OTHER, 9728),
        FileEntry("model.onnx", OTHER, 88000),
    ),
    inputs=(TensorSpec("window", "FP32", (-1, 200, 6), "g, rad/s"),),
    features=(TensorSpec("features", "FP32", (-1, 96)),),
    outputs=(TensorSpec("probabilities", "FP32", (-1, 7)),),
    variants=(Variant("cpu-fp32", "features.onnx", "model.onnx", ("CPUExecutionProvider",)),),
    golden=Golden(
        (
            GoldenTensor("input", "window", "golden/window.npy"),
            GoldenTensor("output", "probabilities", "golden/probabilities.npy"),
        ),
        rtol=1e-3,
        atol=1e-5,
    ),
    features_digest=DIGEST,
    lineage=Lineage("run-1", DIGEST, OTHER, "2026-11-23T12:00:00Z", versions={"torch": "2.13.0"}),
    labels=("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"),
    confidence_output="probabilities",
    metrics={"accuracy": 0.81},
)

STATEFUL = replace(
    MANIFEST,
    name="voice",
    max_batch=1,
    control_flow=("If",),
    states=(
        State("context", "context_next", "FP32", (1, 64), "features"),
        State("state", "stateN", "FP32", (2, 1, 128)),
        State("seen", "seen_next", "INT64", (1,), initial=3.0),
    ),
)
CODECS = (
    Codec(
        "picture",
        "jpeg",
        TensorSpec("picture", "FP32", (-1, 3, 96, 128), "0 to 1"),
        colour="RGB",
        layout="CHW",
        fit="stretch",
        scale=0.25,
        offset=-0.5,
        max_bytes=262_144,
        max_pixels=2_073_600,
        golden=CodecGolden("golden/probabilities.npy", "golden/window.npy", 0.5),
    ),
    Codec(
        "sound",
        "raw",
        TensorSpec("sound", "INT16", (-1, 160)),
        stored="INT16",
        golden=CodecGolden("golden/window.npy", "golden/window.npy"),
    ),
)
MANIFEST_CODECS = replace(
    MANIFEST,
    inputs=(TensorSpec("picture", "BYTES", (-1, 1)), TensorSpec("sound", "BYTES", (-1, 1)), *MANIFEST.inputs),
    codecs=CODECS,
)

SAMPLE = Sample(
    sample_id="watch/12/400",
    model="watch",
    version="1.2.3",
    digest=DIGEST,
    features_digest=OTHER,
    captured_at_ms=1_790_000_000_000,
    reason="random",
    confidence=0.75,
    features=(Tensor("features", "FP32", (3,), struct.pack("<3f", 0.5, -1.0, 2.0)),),
    outputs=(Tensor("probabilities", "FP32", (2,), struct.pack("<2f", 0.25, 0.75)),),
)

BATCH = BatchManifest(
    thing="watch-1",
    model="watch",
    epoch="5f3a",
    first_seq=1,
    last_seq=256,
    count=200,
    features_digest=OTHER,
    versions=("1.2.3",),
    data_key="devices/watch-1/data/watch/5f3a-1-256.npz",
    data_sha256=DIGEST,
    data_size=4096,
    created_at_ms=1_790_000_000_000,
)

REPORT = DeviceReport(
    thing="watch-1",
    sequence=7,
    runtime_version="0.1.0",
    models=(ModelReport("watch", "1.2.3", DIGEST, PackageState.ACTIVE, "first", 1, "CPUExecutionProvider"),),
    captured=10,
    returned=8,
    spool_bytes=2048,
)

HANDOVER = Handover("watch", "/greengrass/v2/packages/x", DIGEST, "rollout-1", 3, Mode.ACTIVATE)
ANSWER = HandoverAnswer(PackageState.ACTIVE, "watch", "1.2.3", DIGEST, 3)

FEEDBACK = Feedback("watch/12/400", "watch", "ABD", "nurse", 0.5, 1_790_000_000_000)
TELEMETRY = Telemetry(
    "watch-1",
    7,
    "watch",
    "1.2.3",
    DIGEST,
    "first",
    1,
    60,
    Sketch([(100, 5), (120, 1)]),
    ScoreSketch([(10, 2), (48, 4)]),
)
PLAIN_TELEMETRY = replace(TELEMETRY, scores=None)

WINDOW = Window(
    "watch/12/400",
    (
        Tensor("window", "FP32", (2, 3), struct.pack("<6f", 0.5, -1.0, 2.0, 0.25, 9.75, -0.125)),
        Tensor("worn", "BOOL", (1,), b"\x01"),
    ),
)

GOLDEN = {
    "manifest.json": MANIFEST.to_bytes(),
    "manifest-states.json": STATEFUL.to_bytes(),
    "manifest-codecs.json": MANIFEST_CODECS.to_bytes(),
    "sample.bin": SAMPLE.to_bytes(),
    "batch.json": BATCH.to_bytes(),
    "report.json": REPORT.to_bytes(),
    "handover.json": HANDOVER.to_line(),
    "handover-answer.json": ANSWER.to_line(),
    "window.bin": WINDOW.to_bytes(),
    "feedback.bin": FEEDBACK.to_bytes(),
    "telemetry.json": TELEMETRY.to_bytes(),
    "telemetry-plain.json": PLAIN_TELEMETRY.to_bytes(),
}
