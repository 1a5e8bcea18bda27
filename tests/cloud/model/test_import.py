"""Packages of ONNX files made elsewhere: what goes in, and what is refused with which sentence."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hybridge_cloud.compile import foreign_graph
from hybridge_cloud.compile.foreign import Wanted, import_package
from hybridge_cloud.compile.foreign_states import StateWanted
from hybridge_cloud.package import read_package
from hybridge_edge.admission.golden import check_golden
from hybridge_edge.admission.lint import check_graphs
from hybridge_edge.contract.errors import Conflict, HybridgeError, InvalidName, PackageRefused, UsageError
from hybridge_edge.engine import load, readable

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
H = StateWanted("h", "hn")
WANTED = Wanted("sums", states=(H,), created_at="2026-11-28T00:00:00Z")


def port(name: str, shape: list[Any], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any] | None = None) -> bytes:
    made = helper.make_graph(nodes, "graph", inputs, outputs, constants or [])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def summing(state_shape: list[Any] | None = None, nodes: list[Any] | None = None) -> bytes:
    """y = hn = h + x"""
    made = nodes or [helper.make_node("Add", ["h", "x"], ["hn"]), helper.make_node("Identity", ["hn"], ["y"])]
    state = state_shape or ["batch", 3]
    return graph(made, [port("x", ["batch", 3]), port("h", state)], [port("y", ["batch", 3]), port("hn", state)])


def doubling(output: str = "x", shape: list[Any] | None = None, kind: int = FLOAT) -> bytes:
    """Features: raw -> its double, in any type."""
    two = numpy_helper.from_array(numpy.array(2, numpy.float32), "two")
    nodes = [helper.make_node("Mul", ["raw", "two"], ["twice"]), helper.make_node("Cast", ["twice"], [output], to=kind)]
    return graph(nodes, [port("raw", ["batch", 3])], [port(output, shape or ["batch", 3], kind)], [two])


X = numpy.arange(12, dtype=numpy.float32).reshape(4, 3)


class Files:
    """An import's files, good ones to begin with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = summing()
        self.features: bytes | None = None
        self.golden: dict[str, Any] = {"x": X}
        self.golden_file: bytes | None = None
        self.wanted = WANTED

    def run(self) -> Any:
        model, golden, features = (self.folder / name for name in ("m.onnx", "golden.npz", "f.onnx"))
        model.write_bytes(self.model)
        if self.golden_file is None:
            held = io.BytesIO()
            numpy.savez(held, **self.golden)
            self.golden_file = held.getvalue()
        golden.write_bytes(self.golden_file)
        if self.features is not None:
            features.write_bytes(self.features)
        return import_package(
            model, golden, self.folder / "out", self.wanted, features if self.features is not None else None
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def outputs(folder: Path, name: str) -> numpy.ndarray:
    manifest = read_package(folder).manifest
    (path,) = (one.path for one in manifest.golden.tensors if one.name == name)
    return numpy.load(folder / path)


def test_a_model_with_a_state_is_a_package_that_a_device_takes(files: Files) -> None:
    manifest = files.run()
    package = read_package(files.folder / "out")
    check_graphs(package, readable())
    engine = load(package, 1)
    check_golden(package, engine)
    assert [(spec.name, spec.shape) for spec in manifest.inputs] == [("x", (-1, 3))]
    assert [spec.name for spec in manifest.outputs] == ["y"]
    assert (manifest.max_batch, manifest.states[0].shape) == (1, (1, 3))
    assert numpy.array_equal(outputs(files.folder / "out", "y"), numpy.cumsum(X, axis=0))
    assert engine.run({"x": X[:1]}).outputs["y"].tolist() == X[:1].tolist()


def test_the_same_files_give_the_same_digest(files: Files, tmp_path: Path) -> None:
    first = files.run()
    (tmp_path / "again").mkdir()
    again = Files(tmp_path / "again")
    again.golden_file = files.golden_file
    assert again.run().digest == first.digest


def test_without_states_rows_go_together(files: Files) -> None:
    files.model = graph([helper.make_node("Neg", ["x"], ["y"])], [port("x", ["n", 3])], [port("y", ["n", 3])])
    files.wanted = replace(WANTED, states=(), labels=("a", "b", "c"), confidence="y", max_batch=8)
    files.golden["y"] = -X
    manifest = files.run()
    assert (manifest.max_batch, manifest.outputs[0].shape, manifest.confidence_output) == (8, (-1, 3), "y")
    package = read_package(files.folder / "out")
    assert load(package, 1).run({"x": X}).outputs["y"].tolist() == (-X).tolist()


def test_features_come_before_it_byte_for_byte(files: Files) -> None:
    files.features = doubling()
    files.golden = {"raw": X, "y": numpy.cumsum(2 * X, axis=0)}
    manifest = files.run()
    package = read_package(files.folder / "out")
    assert package.read("features.onnx") == files.features
    assert package.read("model.onnx") == files.model
    assert [spec.name for spec in (*manifest.inputs, *manifest.features)] == ["raw", "x"]


def test_a_state_begins_at_its_initial_value_and_a_free_axis_of_it_is_one_row(files: Files) -> None:
    files.wanted = replace(WANTED, states=(StateWanted.read("h=hn:0.5"),))
    assert files.run().states[0].shape == (1, 3)
    assert numpy.array_equal(outputs(files.folder / "out", "y"), numpy.cumsum(X, axis=0) + 0.5)


def test_an_output_that_only_its_file_calls_free_is_of_one_row(files: Files) -> None:
    """The runtime finds that y has the shape of a state of one row, whatever the file says of it."""
    files.model = summing([1, 3])
    files.golden["y"] = numpy.cumsum(X, axis=0)
    assert files.run().outputs[0].shape == (1, 3)
    assert outputs(files.folder / "out", "y").shape == (4, 1, 3)


def test_an_input_that_is_always_the_same_is_fixed(files: Files) -> None:
    nodes = [helper.make_node("Add", ["x", "by"], ["y"])]
    files.model = graph(nodes, [port("x", ["n", 3]), port("by", [])], [port("y", ["n", 3])])
    files.wanted = replace(WANTED, states=())
    files.golden["y"] = X + 7
    with pytest.raises(PackageRefused, match=r"'by' is a scalar.*--fix by=VALUE"):
        files.run()
    files.wanted = replace(WANTED, states=(), fixed={"by": "7"})
    assert [spec.name for spec in files.run().inputs] == ["x"]


def external(files: Files) -> None:
    weights = numpy_helper.from_array(X[:1], "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="add")]
    files.model = graph(nodes, [port("x", ["n", 3])], [port("y", ["n", 3])], [weights])


def foreign_node(files: Files) -> None:
    nodes = [helper.make_node("Magic", ["x"], ["y"], name="wand", domain="org.example")]
    made = helper.make_graph(nodes, "graph", [port("x", ["n", 3])], [port("y", ["n", 3])])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 1)]
    files.model = helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def future(files: Files) -> None:
    model = onnx.load_from_string(files.model)
    model.opset_import[0].version = 99
    files.model = model.SerializeToString()


def overflowing(files: Files) -> None:
    """Infinite in the last step, where the sum is larger than 20."""
    nodes = [
        helper.make_node("Add", ["h", "x"], ["hn"]),
        helper.make_node("Constant", [], ["twenty"], value_float=20.0),
        helper.make_node("Greater", ["hn", "twenty"], ["large"]),
        helper.make_node("Constant", [], ["big"], value_float=3e38),
        helper.make_node("Constant", [], ["none"], value_float=0.0),
        helper.make_node("Where", ["large", "big", "none"], ["much"]),
        helper.make_node("Add", ["much", "much"], ["y"]),
    ]
    files.model = summing(nodes=nodes)


def names_of_states(*states: StateWanted) -> Callable[[Files], None]:
    return lambda files: setattr(files, "wanted", replace(WANTED, states=states))


def golden(**arrays: Any) -> Callable[[Files], None]:
    return lambda files: setattr(files, "golden", arrays)


def features(content: bytes) -> Callable[[Files], None]:
    def spoil(files: Files) -> None:
        files.features, files.golden = content, {"raw": X}

    return spoil


def pickled(files: Files) -> None:
    held = io.BytesIO()
    numpy.savez(held, x=numpy.array([{}], object))
    files.golden_file = held.getvalue()


def spoiled(position: tuple[int, int], value: float) -> numpy.ndarray:
    found = X.copy()
    found[position] = value
    return found


def unused_output(files: Files) -> None:
    model = onnx.load_from_string(doubling())
    model.graph.output.append(port("twice", ["batch", 3]))
    features(model.SerializeToString())(files)


REFUSED: dict[str, tuple[Callable[[Files], Any], type[HybridgeError], str]] = {
    "data outside": (external, PackageRefused, r"tensor 'w' has its data outside of the file"),
    "a foreign operator": (foreign_node, PackageRefused, r"node 'wand' .* is of domain 'org\.example'"),
    "a future opset": (future, PackageRefused, "has opset 99; the runtime of this device reads up to"),
    "no ONNX": (lambda files: setattr(files, "model", b"not onnx"), PackageRefused, r"m\.onnx "),
    "infinity in a step": (overflowing, PackageRefused, "NaN or infinity: 'y', first in step 3"),
    "NaN in the golden input": (
        lambda files: golden(x=spoiled((2, 1), numpy.nan))(files), PackageRefused, "'x' holds NaN .* row 2",
    ),
    "a state that is no state": (names_of_states(StateWanted("h", "z")), PackageRefused, "takes 'h' and gives 'z'"),
    "a state of another shape": (names_of_states(StateWanted("x", "hn")), PackageRefused, r"golden file has no 'h'"),
    "a state not said": (names_of_states(), PackageRefused, r"no 'h', an input of m\.onnx.*--state"),
    "an input not given": (golden(z=X), PackageRefused, r"no 'x', an input of m\.onnx; it holds z"),
    "an array too many": (golden(x=X, z=X), PackageRefused, "'z', which is no input and no output; outputs: y"),
    "another type": (golden(x=X.astype(numpy.float64)), PackageRefused, "'x' is FP64; m.onnx takes FP32"),
    "another shape": (golden(x=X[:, :2]), PackageRefused, r"'x' has shape \[4, 2\]; m.onnx takes \['\?', 3\]"),
    "no rows": (golden(x=X[:0]), PackageRefused, r"'x' has shape \[0, 3\]"),
    "other outputs": (golden(x=X, y=X), PackageRefused, "'y' differs by up to 15 from the golden file's"),
    "features of another name": (features(doubling("other")), PackageRefused, r"gives \['other'\]; m.onnx takes"),
    "features of another type": (
        features(doubling(kind=TensorProto.DOUBLE)), PackageRefused, r"gives 'x' as FP64 of .*; m.onnx takes FP32",
    ),
    "features of another shape": (features(doubling(shape=["batch", 4])), PackageRefused, r"of \['\?', 4\]; m.onnx"),
    "an output nobody takes": (unused_output, PackageRefused, r"gives \['twice', 'x'\]"),
    "a golden file of objects": (pickled, UsageError, "is no .npz of plain arrays"),
    "no golden file": (lambda files: setattr(files, "golden_file", b"PK"), UsageError, "is no .npz of plain arrays"),
    "a name": (lambda files: setattr(files, "wanted", replace(WANTED, name="No")), InvalidName, "'No'"),
    "nothing to fix": (
        lambda files: setattr(files, "wanted", replace(WANTED, fixed={"sr": "1"})), UsageError, "no input 'sr' to fix",
    ),
    "a fix that does not fill": (
        lambda files: setattr(files, "wanted", replace(WANTED, fixed={"h": "1,2"})), UsageError, "does not fill input",
    ),
    "what is there": (lambda files: (files.folder / "out" / "x").mkdir(parents=True), Conflict, "is there already"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_package_is_refused_with_the_reason(files: Files, case: str) -> None:
    spoil, kind, sentence = REFUSED[case]
    spoil(files)
    with pytest.raises(kind, match=sentence) as refused:
        files.run()
    assert refused.value.remedy
    assert case == "what is there" or not (files.folder / "out").exists()


def test_too_many_rows_and_a_file_that_is_too_large_are_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.model = graph([helper.make_node("Neg", ["x"], ["y"])], [port("x", ["n", 3])], [port("y", ["n", 3])])
    files.wanted = replace(WANTED, states=(), max_batch=2)
    with pytest.raises(PackageRefused, match=r"have 4 rows\. Give 1 to 2"):
        files.run()
    monkeypatch.setattr(foreign_graph, "MAX_BYTES", 10)
    with pytest.raises(PackageRefused, match="an ONNX file of one piece holds less than 2 GiB"):
        files.run()


@pytest.mark.parametrize(
    ("text", "state"),
    [("h=hn", StateWanted("h", "hn")), ("h=hn:-1.5", StateWanted("h", "hn", -1.5)), ("h=a:b", StateWanted("h", "a:b"))],
)
def test_a_state_is_written_as_a_pair(text: str, state: StateWanted) -> None:
    assert StateWanted.read(text) == state


@pytest.mark.parametrize("text", ["h", "h=", "=hn", ""])
def test_a_pair_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no state"):
        StateWanted.read(text)


def test_the_command_says_what_it_made(files: Files, hybridge: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (files.folder / "m.onnx").write_bytes(files.model)
    numpy.savez(files.folder / "g.npz", **files.golden)
    command = ("package", "import", files.folder / "m.onnx", "--name", "sums", "--golden", files.folder / "g.npz")
    assert hybridge(*command, "--state", "h=hn", "--out", files.folder / "out") == 0
    said = capsys.readouterr().out
    assert "input x: FP32 [-1, 3]" in said
    assert "state h: FP32 [1, 3], from hn" in said
    assert hybridge("package", "show", files.folder / "out") == 0
    assert "h from hn of model, FP32 [1, 3], at first 0" in capsys.readouterr().out
    assert hybridge(*command, "--fix", "h", "--out", files.folder / "other") == 2
