"""Compile: a run in, a package folder out, whole or not at all. The same run gives the same package digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.compile.codecs import codec_files
from hybridge_cloud.compile.disagreement import Measured, Slice, measure, read_other
from hybridge_cloud.compile.evaluate import answer_with_graphs
from hybridge_cloud.compile.export import export_features, export_model
from hybridge_cloud.compile.golden import golden_files
from hybridge_cloud.compile.guards import choose_guards
from hybridge_cloud.compile.layout import FEATURES_FILE, MODEL_FILE, PROVIDERS
from hybridge_cloud.compile.parity import Parity, compare, reference
from hybridge_cloud.compile.probes import ProbeFiles, probe_files
from hybridge_cloud.training.output_folder import output_folder, refuse_unwritable
from hybridge_cloud.training.project_code import project_code
from hybridge_cloud.training.run import Run, read_run
from hybridge_cloud.training.task import Arrays, Task
from hybridge_edge.admission.lint import STEP as LINT
from hybridge_edge.admission.lint import lint, used_control_flow
from hybridge_edge.arrays import to_tensor
from hybridge_edge.contract import names
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.contract.package_file import MANIFEST_FILE, FileEntry
from hybridge_edge.contract.tensors import BYTES, TensorSpec
from hybridge_edge.engine import readable


@dataclass(frozen=True, slots=True)
class Compiled:
    """A package as written: its manifest, how close its graphs came to torch, and how far from other packages."""

    folder: Path
    manifest: Manifest
    parity: Parity
    probes: ProbeFiles
    measured: tuple[Measured, ...]


def compile_run(run_folder: Path, out: Path, version: str = "", against: Sequence[Path] = ()) -> Compiled:
    """Export both graphs of a run, check parity, and write the package to ``out``, unsigned.

    A retrained run brings the champion's features.onnx, which goes in byte for byte.

    Args:
        version: MAJOR.MINOR.PATCH of the package; "" takes project.toml's.
        against: packages that this one may replace. Both answer the run's rows, and the manifest says how often they
            disagreed; a rollout over a package that is not among them is held.

    Raises:
        PackageRefused: the graphs do not answer as torch does, or outside their guards, or hold what no device takes.
        Refused: a module cannot be
        exported, the run is damaged, or a package cannot be compared with. Conflict: ``out`` is there already.
        UsageError: ``run_folder`` is no run.
    """
    refuse_unwritable(out)
    run = read_run(run_folder)
    package_version = names.version(version or run.project.version)
    with project_code("Compiling"):
        return _compile(run, out, package_version, against)


def _compile(run: Run, out: Path, package_version: str, against: Sequence[Path]) -> Compiled:
    project = run.project
    task = project.task()
    others = [read_other(folder, project.name, tuple(task.inputs), task.confidence_output) for folder in against]
    module = run.load_weights(task.model())
    wanted = reference(task, module, run.heldout)
    features_onnx = run.features_onnx or export_features(task, run.heldout.inputs)
    if run.config.features_digest not in ("", sha256(features_onnx)):
        raise PackageRefused(f"features.onnx of run {run.config.run!r} was changed.", "Train again.", step="parity")
    model_onnx = export_model(task, module, wanted.features)
    parity = compare(task, wanted, run.heldout, features_onnx, model_onnx, project.parity, project.max_batch)
    golden = golden_files(run.heldout, wanted, project.parity)
    probes = probe_files(run.heldout)
    slices = {"held-out": run.heldout.inputs} | ({"frozen": run.frozen.inputs} if run.frozen else {})
    answers = {
        name: answer_with_graphs(features_onnx, model_onnx, inputs, project.max_batch, task.codecs)
        for name, inputs in slices.items()
    }
    measured = tuple(
        measure(
            other, tuple(Slice(name, inputs, answers[name][task.confidence_output]) for name, inputs in slices.items())
        )
        for other in sorted({other.digest: other for other in others}.values(), key=lambda other: other.digest)
    )
    codecs = codec_files(task.codecs, run.heldout)
    files = {FEATURES_FILE: features_onnx, MODEL_FILE: model_onnx, **golden.files, **probes.files, **codecs.files}
    manifest = Manifest(
        name=project.name,
        version=package_version,
        files=tuple(FileEntry(path, sha256(content), len(content)) for path, content in sorted(files.items())),
        inputs=tuple(task.inputs),
        features=_specs(wanted.features),
        outputs=_specs(wanted.outputs),
        variants=(Variant("cpu", FEATURES_FILE, MODEL_FILE, PROVIDERS),),
        golden=golden.golden,
        features_digest=sha256(features_onnx),
        lineage=_lineage(run),
        labels=tuple(task.labels),
        max_batch=project.max_batch,
        confidence_output=task.confidence_output,
        metrics=run.metrics,
        guards=choose_guards(project.guards, answers["held-out"], task.confidence_output),
        comparisons=tuple(one.comparison for one in measured),
        probes=probes.probes,
        budgets=project.budgets,
        control_flow=used_control_flow(features_onnx, model_onnx),
        codecs=codecs.codecs,
    )
    _refuse_by_policy(manifest, features_onnx, model_onnx)
    _refuse_other_inputs(task, run.heldout.inputs)
    with output_folder(out) as folder:
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    return Compiled(out, manifest, parity, probes, measured)


def _refuse_by_policy(manifest: Manifest, features_onnx: bytes, model_onnx: bytes) -> None:
    """What every device would refuse is not compiled; with the same reader and rules as there."""
    here = readable()
    for path, content, inputs, outputs in (
        (FEATURES_FILE, features_onnx, manifest.graph_inputs, manifest.features),
        (MODEL_FILE, model_onnx, manifest.features, manifest.outputs),
    ):
        for finding in lint(path, content, inputs, outputs, manifest.control_flow, here):
            raise PackageRefused(finding.reason, finding.remedy, step=LINT)


def _lineage(run: Run) -> Lineage:
    return Lineage(
        run=run.config.run,
        data_digest=run.config.data_digest,
        code_digest=run.config.code_digest,
        created_at=run.config.created_at,
        dataset=run.config.dataset,
        parent=run.config.parent,
        versions=run.config.versions,
    )


def _specs(arrays: Arrays) -> tuple[TensorSpec, ...]:
    """The signature of tensors as torch gave them: any number of rows, then the rest of each shape."""
    return tuple(
        TensorSpec(name, to_tensor(name, array[:1]).datatype, (-1, *array.shape[1:])) for name, array in arrays.items()
    )


def _refuse_other_inputs(task: Task, inputs: Arrays) -> None:
    """The declared signature of the raw input must be what dataset() gives."""
    plain = {name: array for name, array in inputs.items() if not array.dtype.hasobject}
    found = {spec.name: (spec.datatype, spec.shape) for spec in _specs(plain)}
    found |= {name: (BYTES, (-1, *array.shape[1:])) for name, array in inputs.items() if name not in plain}
    declared = {spec.name: (spec.datatype, spec.shape) for spec in task.inputs}
    if found != declared:
        raise PackageRefused(
            f"The task declares inputs {declared} and its dataset gives {found}.",
            "Make the two agree.",
            step="parity",
        )
