"""Packages: reproducible, portable, and refused where they do not answer as torch does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from hybridge_cloud.compile import export
from hybridge_cloud.compile.bundle import Compiled, compile_run
from hybridge_cloud.compile.export import export_features, export_model
from hybridge_cloud.compile.parity import Reference, compare, reference
from hybridge_cloud.training.graph import Graph
from hybridge_cloud.training.project import ParityConfig, load_project
from hybridge_cloud.training.run import Run, read_run
from hybridge_cloud.training.task import Task
from hybridge_edge.contract.errors import PackageRefused, Refused
from hybridge_edge.contract.manifest import Manifest

MAX_BATCH = 32


@pytest.fixture(scope="module")
def read(run: Path) -> Run:
    return read_run(run)


@pytest.fixture(scope="module")
def task(read: Run) -> Task:
    return read.project.task()


@pytest.fixture(scope="module")
def model(read: Run, task: Task) -> nn.Module:
    return read.load_weights(task.model())


@pytest.fixture(scope="module")
def wanted(task: Task, model: nn.Module, read: Run) -> Reference:
    return reference(task, model, read.heldout)


@pytest.fixture(scope="module")
def features(compiled: Compiled) -> bytes:
    return (compiled.folder / "features.onnx").read_bytes()


def test_the_manifest_reads_back_and_describes_the_package(compiled: Compiled) -> None:
    manifest = Manifest.from_bytes((compiled.folder / "manifest.json").read_bytes())
    assert manifest == compiled.manifest
    assert [(s.name, s.shape) for s in (*manifest.inputs, *manifest.features, *manifest.outputs)] == [
        ("window", (-1, 200, 6)),
        ("features", (-1, 162)),
        ("probabilities", (-1, 7)),
    ]
    assert len(manifest.labels) == 7
    assert manifest.metrics["frozen.accuracy"] > 0.5


def test_golden_inputs_give_the_golden_outputs(compiled: Compiled) -> None:
    folder, golden = compiled.folder, compiled.manifest.golden
    arrays = {tensor.role: np.load(folder / tensor.path, allow_pickle=False) for tensor in golden.tensors}
    features = Graph((folder / "features.onnx").read_bytes()).run({"window": arrays["input"]})
    got = Graph((folder / "model.onnx").read_bytes()).run(features)["probabilities"]
    np.testing.assert_allclose(got, arrays["output"], golden.rtol, golden.atol)
    np.testing.assert_allclose(arrays["output"].sum(1), 1, rtol=1e-5)


def test_the_same_run_gives_the_same_digest_wherever_it_lies(run: Path, compiled: Compiled, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "a folder of another name" / "run")
    assert compile_run(Path(moved), tmp_path / "again").manifest.digest == compiled.manifest.digest


def of_this_machine(content: bytes) -> bool:
    return any(trace in content for trace in (b".py", b"site-packages", str(Path.home()).encode(), b"/tmp", b"File "))


def test_nothing_of_this_machine_is_in_a_graph(
    compiled: Compiled, task: Task, read: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("features.onnx", "model.onnx"):
        assert not of_this_machine((compiled.folder / name).read_bytes())
    monkeypatch.setattr(export, "_strip", lambda model: None)
    assert of_this_machine(export_features(task, read.heldout.inputs)), "the search must be able to find something"


def test_graphs_are_of_versions_that_a_jetson_reads(compiled: Compiled) -> None:
    for name in ("features.onnx", "model.onnx"):
        graph = onnx.load(compiled.folder / name)
        assert graph.ir_version <= 10
        assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
        assert not graph.functions


class Wrong(nn.Module):
    """A module with something done to its result."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.module(x))


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda x: x, False),
        (lambda x: x[:, [1, 0, 2, 3, 4, 5, 6]], True),
        (lambda x: x * 1.02, True),
        (lambda x: x - x.mean(0), True),
        (lambda x: x[:, :6], True),
    ],
    ids=["as it is", "two outputs swapped", "scaled a little", "depends on its batch", "one output less"],
)
def test_a_model_that_answers_otherwise_is_refused(
    change: Callable[[Tensor], Tensor],
    refused: bool,
    features: bytes,
    task: Task,
    model: nn.Module,
    read: Run,
    wanted: Reference,
) -> None:
    graph = export_model(task, Wrong(model, change), wanted.features)
    settings = read.project.parity
    if not refused:
        parity = compare(task, wanted, read.heldout, features, graph, settings, MAX_BATCH)
        assert parity.torch_metric == parity.onnx_metric
        return
    with pytest.raises(PackageRefused, match="'probabilities'") as error:
        compare(task, wanted, read.heldout, features, graph, settings, MAX_BATCH)
    assert error.value.step == "parity"


def test_features_normalised_otherwise_are_refused(
    task: Task, model: nn.Module, read: Run, wanted: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = task.features()
    monkeypatch.setattr(task, "features", lambda: Wrong(right, lambda x: x / 9.81))
    features = export_features(task, read.heldout.inputs)
    graph = export_model(task, model, wanted.features)
    with pytest.raises(PackageRefused, match="elements of 'features' differ from torch"):
        compare(task, wanted, read.heldout, features, graph, read.project.parity, MAX_BATCH)


def test_a_metric_that_moves_is_refused_even_inside_a_wide_tolerance(
    features: bytes, task: Task, model: nn.Module, read: Run, wanted: Reference
) -> None:
    graph = export_model(task, Wrong(model, lambda x: x[:, [1, 0, 2, 3, 4, 5, 6]]), wanted.features)
    loose = ParityConfig(rtol=0.0, atol=10.0, metric="accuracy", metric_tolerance=0.002)
    with pytest.raises(PackageRefused, match="accuracy of the exported graphs is"):
        compare(task, wanted, read.heldout, features, graph, loose, MAX_BATCH)


@pytest.mark.parametrize("real", [True, False])
def test_features_of_complex_numbers_are_refused(
    real: bool, task: Task, read: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spectrum(nn.Module):
        def forward(self, window: Tensor) -> Tensor:
            spectrum = torch.fft.fft(window, dim=1)
            return torch.view_as_real(spectrum).flatten(1) if real else spectrum.flatten(1)

    monkeypatch.setattr(task, "features", Spectrum)
    if real:
        graph = Graph(export_features(task, read.heldout.inputs))
        assert graph.run({"window": read.heldout.inputs["window"][:2]})["features"].shape == (2, 2400)
        return
    with pytest.raises(Refused, match="complex64"):
        export_features(task, read.heldout.inputs)


def test_a_module_that_branches_on_values_is_refused_with_the_reason(
    task: Task, read: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Branching(nn.Module):
        def forward(self, window: Tensor) -> Tensor:
            return window.mean(1) if float(window.sum()) > 0 else window.amax(1)

    monkeypatch.setattr(task, "features", Branching)
    with pytest.raises(Refused, match="cannot export"):
        export_features(task, read.heldout.inputs)


def test_a_refused_package_leaves_nothing_behind(
    run: Path, tmp_path: Path, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Path(shutil.copytree(run, tmp_path / "run"))
    state = torch.load(changed / "checkpoint.pt", weights_only=True)
    torch.save({name: value for name, value in state.items() if name != "0.weight"}, changed / "checkpoint.pt")
    assert hybridge("compile", changed, "--out", tmp_path / "package") == 1
    assert "checkpoint of run" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_run_whose_code_was_changed_is_refused(run: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(run, tmp_path / "run"))
    (changed / "project" / "task.py").write_text((changed / "project" / "task.py").read_text() + "\n")
    with pytest.raises(Refused, match="were changed after it was trained"):
        compile_run(changed, tmp_path / "package")


def test_the_command_compiles_and_reports_parity(
    run: Path, compiled: Compiled, tmp_path: Path, hybridge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert hybridge("compile", run, "--out", tmp_path / "package", "--version", "2.0.0") == 0
    output = capsys.readouterr().out
    assert "parity of probabilities" in output
    assert "compiled watch 2.0.0" in output
    assert load_project(run / "project").version == compiled.manifest.version == "1.0.0"
