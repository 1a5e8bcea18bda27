"""The voice detector: Silero's model as its package ships it, our features before it, and the two as a package.

Of the ONNX files in ``silero-vad`` 6.2.3 this takes ``silero_vad_openvino_16k.onnx``: 16 kHz alone, so no scalar input
that says which rate and no If that asks. Its answers on a CPU are those of ``silero_vad.onnx``, bit for bit
(tests/cloud/model/test_voice.py). Silero's own wrapper puts the last 64 samples of the window before in front of each
window of 512, and feeds ``state`` back; here both are states, and callers send windows of 512 samples and nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from examples.voice.audio import WINDOW, windows_of
from examples.voice.synthetic import silence, speech
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hybridge_cloud.compile.foreign import Wanted, import_package
from hybridge_cloud.compile.foreign_states import StateWanted
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.manifest import Manifest

NAME = "voice"
CONTEXT = 64
STATE_SHAPE = (2, 1, 128)
FILE, FILE_SHA256 = "silero_vad_openvino_16k.onnx", "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87"
KNOWN, KNOWN_SHA256 = "silero_vad.onnx", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"
"""The file that Silero's own wrapper loads, to compare with."""
CREATED = "2026-11-28T00:00:00Z"
"""Of the package, which shall be the same whenever it is built."""
_GET = "Install it with: pip install --no-deps silero-vad==6.2.3."


def source(file: str = FILE, sha256: str = FILE_SHA256) -> Path:
    """A file of the installed ``silero-vad``. Raises Refused where it is missing or another one."""
    spec = importlib.util.find_spec("silero_vad")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(places[0], "data", file) if places else None
    if path is None or not path.is_file():
        raise Refused("Silero's voice detector is not installed (silero-vad 6.2.3).", _GET)
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise Refused(f"{file} is not that of silero-vad 6.2.3: its SHA-256 differs.", _GET)
    return path


def features_graph() -> bytes:
    """``pcm`` (1, 512) INT16 and ``context`` (1, 64) -> ``input`` (1, 576), -1 to 1, and the next ``context``."""
    scale = numpy_helper.from_array(np.array(1 / 32768, np.float32), "scale")
    bounds = {name: numpy_helper.from_array(np.array([value], np.int64), name) for name, value in _SLICE.items()}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pcm"], ["whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["whole", "scale"], ["samples"]),
            helper.make_node("Concat", ["context", "samples"], ["input"], axis=1),
            helper.make_node("Slice", ["samples", "first", "end", "axis"], ["context_next"]),
        ],
        "features",
        [
            helper.make_tensor_value_info("pcm", TensorProto.INT16, [1, WINDOW]),
            helper.make_tensor_value_info("context", TensorProto.FLOAT, [1, CONTEXT]),
        ],
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, CONTEXT + WINDOW]),
            helper.make_tensor_value_info("context_next", TensorProto.FLOAT, [1, CONTEXT]),
        ],
        [scale, *bounds.values()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


_SLICE = {"first": WINDOW - CONTEXT, "end": WINDOW, "axis": 1}


def detect(pcm: NDArray[np.int16], path: Path) -> NDArray[np.float32]:
    """The probability of speech of each whole window, by a loop over one of Silero's files and nothing of ours.

    Args:
        pcm: (samples,) at 16 kHz. Returns (windows,).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rate: dict[str, Any] = {"sr": np.array(16_000, np.int64)} if "sr" in {i.name for i in session.get_inputs()} else {}
    state, context = np.zeros(STATE_SHAPE, np.float32), np.zeros((1, CONTEXT), np.float32)
    found = []
    for window in windows_of(pcm):
        whole = np.concatenate([context, window.astype(np.float32) / 32768], axis=1)
        output, state = session.run(["output", "stateN"], {"input": whole, "state": state, **rate})
        context = whole[:, -CONTEXT:]
        found.append(output[0, 0])
    return np.array(found, np.float32)


def examination() -> NDArray[np.int16]:
    """The sound that a device tries the package with: a moment of silence, then something like speech."""
    return np.concatenate([silence(0.25), speech(1.0)])


def build(out: Path) -> Manifest:
    """Write the package, unsigned; its golden outputs are what the file that Silero's wrapper loads gives."""
    pcm = examination()
    steps = np.stack(list(windows_of(pcm)))
    expected = detect(pcm, source(KNOWN, KNOWN_SHA256)).reshape(-1, 1, 1)
    wanted = Wanted(
        name=NAME,
        states=(StateWanted("context", "context_next"), StateWanted("state", "stateN")),
        confidence="output",
        rtol=1e-3,
        atol=1e-4,
        created_at=CREATED,
    )
    with tempfile.TemporaryDirectory() as folder:
        golden, features = Path(folder, "golden.npz"), Path(folder, "features.onnx")
        np.savez(golden, pcm=steps, output=expected)
        features.write_bytes(features_graph())
        return import_package(source(), golden, out, wanted, features)
