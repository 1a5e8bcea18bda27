"""What the engine runs, what it need not run, and what it lets go once a model is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.onnx_graph import handed_on, read_model
from hybridge_edge.trust import open_package


def graph(
    nodes: list[Any], inputs: tuple[str, ...], outputs: tuple[str, ...], constants: tuple[str, ...] = ()
) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in outputs],
        [numpy_helper.from_array(numpy.ones((1, 2), numpy.float32), name) for name in constants],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def node(kind: str, given: str | list[str], made: str) -> Any:
    return helper.make_node(kind, given if isinstance(given, list) else [given], [made])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (graph([node("Identity", "a", "b")], ("a",), ("b",)), {"b": "a"}),
        (graph([node("Identity", "a", "x"), node("Identity", "x", "b")], ("a",), ("b",)), {"b": "a"}),
        (
            graph([node("Identity", "a", "y"), node("Identity", "b", "x")], ("a", "b"), ("x", "y")),
            {"x": "b", "y": "a"},
        ),
        (graph([node("Neg", "a", "b")], ("a",), ("b",)), None),
        (graph([node("Neg", "a", "x"), node("Identity", "x", "b")], ("a",), ("b",)), None),
        (graph([node("Identity", "c", "b")], ("a",), ("b",), ("c",)), None),  # a constant, whatever comes in
        (graph([node("Identity", "a", "b")], ("a",), ("b",), ("a",)), None),  # an input with a default is one too
    ],
)
def test_a_graph_that_only_hands_on_is_known_from_its_bytes(content: bytes, found: dict[str, str] | None) -> None:
    assert handed_on(read_model(content)) == found


def test_features_that_are_the_raw_input_run_no_graph(
    kit: ModuleType, tmp_path: Path, trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    real = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda self, *rest: runs.append("run") or real(self, *rest)
    )
    echo, watch = kit.build_echo(tmp_path / "echo", "FP32"), kit.build(tmp_path / "watch")
    counted = {}
    for built in (echo, watch):
        engine = load(open_package(built.folder, trust), 1)
        manifest = open_package(built.folder, trust).manifest
        inputs = {spec.name: numpy.ones([1, *spec.shape[1:]], numpy.float32) for spec in manifest.inputs}
        runs.clear()
        result = engine.run(inputs)
        counted[built.folder.name] = len(runs)
        assert set(result.features) == {spec.name for spec in manifest.features}
        assert set(result.outputs) == {spec.name for spec in manifest.outputs}
    assert counted == {"echo": 1, "watch": 2}


def test_no_session_keeps_the_bytes_of_its_file(
    packages: Callable[..., Any], trust: TrustDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[onnxruntime.InferenceSession] = []
    real = onnxruntime.InferenceSession.__init__

    def watched(self: Any, *given: Any, **named: Any) -> None:
        real(self, *given, **named)
        assert isinstance(self._model_bytes, bytes)  # the control: the runtime would keep them
        kept.append(self)

    monkeypatch.setattr(onnxruntime.InferenceSession, "__init__", watched)
    engine = load(open_package(packages("1.0.0").folder, trust), 1)
    assert kept
    assert all(session._model_bytes is None for session in kept)
    engine.close()


def test_the_worker_loads_nothing_of_grpcio() -> None:
    """Its memory and its time to start are the worker's; only clients need it."""
    program = "import sys; import hybridge_edge.worker; print(*{name.split('.')[0] for name in sys.modules})"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "hpack" in found.stdout.split()
    assert not {"grpc", "h2", "awscrt"} & set(found.stdout.split())
