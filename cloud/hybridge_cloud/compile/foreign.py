"""Import: a package from ONNX files that were made elsewhere, proven on golden inputs, or refused with the reason.

The graphs go in as they are, but for inputs that are fixed to a value and, where no features come with the model, an
Identity at its entrance. What the package says of its tensors is read from the graphs and from one run of the golden
inputs, statefully where states are declared; then the package is loaded and examined as a device does it.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from hybridge_cloud.compile.foreign_graph import (
    Foreign,
    Port,
    examine,
    fix_inputs,
    handing_on,
    read_file,
    with_entrance,
)
from hybridge_cloud.compile.foreign_run import GOLDEN, MISMATCH, Arrays, compare, run, specs_of
from hybridge_cloud.compile.foreign_states import StateWanted, as_states
from hybridge_cloud.compile.layout import FEATURES_FILE, MODEL_FILE, PROVIDERS
from hybridge_cloud.compile.npy import npy_bytes
from hybridge_cloud.training.output_folder import output_folder, refuse_unwritable
from hybridge_edge.admission.golden import check_golden, joined, steps
from hybridge_edge.admission.lint import STEP as LINT
from hybridge_edge.admission.lint import lint, signatures, used_control_flow
from hybridge_edge.arrays import DATATYPES, NUMPY_TYPES, from_file
from hybridge_edge.contract import names
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import PackageRefused, UsageError
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import MAX_BATCH_LIMIT, Manifest, Variant
from hybridge_edge.contract.package_file import MANIFEST_FILE, FileEntry
from hybridge_edge.contract.state import FEATURES, MODEL, State
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.engine import load, readable
from hybridge_edge.package import Package

MAX_GOLDEN_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an import is told besides its files.

    Attributes:
        states: what is kept between requests. fixed: inputs of the model that are constants, NAME to its numbers.
        rtol, atol: how far from its golden outputs a device's answer may be.
        created_at: UTC, ISO 8601; "" takes the time of the import.
    """

    name: str
    version: str = "1.0.0"
    states: tuple[StateWanted, ...] = ()
    fixed: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()
    confidence: str = ""
    max_batch: int = 32
    rtol: float = 1e-3
    atol: float = 1e-5
    created_at: str = ""


def import_package(model: Path, golden: Path, out: Path, wanted: Wanted, features: Path | None = None) -> Manifest:
    """Write an unsigned package to ``out``.

    Args:
        golden: an .npz of raw inputs by name, rows first; of a model with states, the steps of one sequence first. It
            may hold the outputs that were had where the model was made, which are compared.
        features: what comes before the model; without it the model takes the raw input.

    Raises:
        PackageRefused: the files hold what no device takes, do not go together, or give NaN or other outputs.
        UsageError: a file cannot be read, or what is wanted is not there. InvalidDocument: no manifest can say this.
        Conflict: ``out`` is there already.
    """
    refuse_unwritable(out)
    names.model_name(wanted.name)
    names.version(wanted.version)
    given = _read_golden(golden)
    content = fix_inputs(model.name, read_file(model), wanted.fixed or {})
    its_model = examine(model.name, content)
    if features is None:
        states = as_states(wanted.states, {MODEL: its_model})
        kept = {one.input for one in states}
        entering = [name for name in its_model.inputs if name not in kept]
        specs = _raw_specs(its_model, entering, given, stepped=bool(states))
        features_content = handing_on(specs)
        its_model = examine(model.name, with_entrance(content, entering))
        its_features = examine(FEATURES_FILE, features_content)
    else:
        its_features = examine(features.name, read_file(features))
        states = as_states(wanted.states, {FEATURES: its_features, MODEL: its_model})
        kept = {one.input for one in states if one.graph == FEATURES}
        raw = [name for name in its_features.inputs if name not in kept]
        specs = _raw_specs(its_features, raw, given, stepped=bool(states))
    _check_between(its_features, its_model, states)
    manifest, files = _described(wanted, specs, states, its_features, its_model, given, sha256(golden.read_bytes()))
    for path, taken, made in signatures(manifest):
        for finding in lint(path, files[path], taken, made, manifest.control_flow, readable()):
            raise PackageRefused(finding.reason, finding.remedy, step=LINT)
    with output_folder(out) as folder:
        for path, data in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(data)
        (folder / MANIFEST_FILE).write_bytes(manifest.to_bytes())
        package = Package(folder, Manifest.from_bytes(manifest.to_bytes()), manifest.digest, b"")
        engine = load(package, 1)
        try:
            check_golden(package, engine)
        finally:
            engine.close()
    return manifest


def _described(
    wanted: Wanted,
    inputs: tuple[TensorSpec, ...],
    states: tuple[State, ...],
    features: Foreign,
    model: Foreign,
    given: Arrays,
    golden_digest: str,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files that it lists."""
    batched = any(spec.shape[0] == -1 for spec in inputs)
    max_batch = 1 if states or not batched else min(wanted.max_batch, MAX_BATCH_LIMIT)
    raw = {spec.name: given[spec.name] for spec in inputs}
    rows = {len(array) for spec, array in zip(inputs, raw.values(), strict=True) if spec.shape[0] == -1}
    if not states and (len(rows) > 1 or (rows and not 1 <= max(rows) <= max_batch)):
        raise PackageRefused(
            f"The golden inputs have {', '.join(map(str, sorted(rows)))} rows.",
            f"Give 1 to {max_batch} rows, the same of each.",
            step=GOLDEN,
        )
    ran = run(features, model, states, list(steps(inputs, raw)) if states else [raw])
    free = ran.free if batched else frozenset()
    between = [name for name in model.inputs if name in ran.features[0]]
    feature_specs = specs_of(features, ran.features[0], between, free)
    output_specs = specs_of(model, ran.outputs[0], list(ran.outputs[0]), free)
    answers = joined(output_specs, ran.outputs) if states else ran.outputs[0]
    compare({name: array for name, array in given.items() if name not in raw}, answers, wanted.rtol, wanted.atol)
    files = {FEATURES_FILE: features.content, MODEL_FILE: model.content}
    tensors = []
    for role, arrays in (("input", raw), ("output", answers)):
        for number, (name, array) in enumerate(arrays.items()):
            path = f"golden/{role}-{number}.npy"
            files[path] = npy_bytes(array)
            tensors.append(GoldenTensor(role, name, path))
    created = wanted.created_at or datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = Manifest(
        name=wanted.name,
        version=wanted.version,
        files=tuple(FileEntry(path, sha256(data), len(data)) for path, data in sorted(files.items())),
        inputs=inputs,
        features=feature_specs,
        outputs=output_specs,
        variants=(Variant("cpu", FEATURES_FILE, MODEL_FILE, PROVIDERS),),
        golden=Golden(tuple(tensors), wanted.rtol, wanted.atol),
        features_digest=sha256(features.content),
        lineage=Lineage(
            "import",
            golden_digest,
            sha256(model.content),
            created,
            versions={"onnxruntime": str(onnxruntime.__version__)},
        ),
        labels=wanted.labels,
        max_batch=max_batch,
        confidence_output=wanted.confidence,
        control_flow=used_control_flow(features.content, model.content),
        states=states,
    )
    return manifest, files


def _read_golden(path: Path) -> Arrays:
    try:
        if path.stat().st_size > MAX_GOLDEN_BYTES:
            raise UsageError(f"{path.name} is larger than {MAX_GOLDEN_BYTES} bytes.", "A few rows are enough.")
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
            if isinstance(data, np.ndarray):
                raise ValueError("it holds one array without a name")
            found: dict[str, Any] = {name: from_file(data[name]) for name in data.files}
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}.", "Name an .npz file.") from None
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UsageError(
            f"{path.name} is no .npz of plain arrays: {error}.", "Write it with numpy.savez(PATH, INPUT=array)."
        ) from None
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            where = int(np.argwhere(~np.isfinite(array.reshape(len(array), -1) if array.ndim else array))[0][0])
            raise PackageRefused(
                f"Golden array {name!r} holds NaN or infinity, first in row {where}.", "Give numbers.", step=GOLDEN
            )
    return found


def _raw_specs(graph: Foreign, raw: Sequence[str], given: Arrays, *, stepped: bool) -> tuple[TensorSpec, ...]:
    """The signature of the raw inputs: the graph's, with what it leaves free as the golden arrays have it."""
    if not raw:
        raise PackageRefused(f"{graph.path} has no input that is no state.", "Give it one.", step=MISMATCH)
    missing = [name for name in raw if name not in given]
    if missing:
        raise PackageRefused(
            f"The golden file has no {missing[0]!r}, an input of {graph.path}; it holds "
            f"{', '.join(given) or 'nothing'}.",
            "Add it; or name it with --state where the server shall keep it, or with --fix where it is a constant.",
            step=MISMATCH,
        )
    return tuple(_raw_spec(graph, graph.inputs[name], given[name], stepped=stepped) for name in raw)


def _raw_spec(graph: Foreign, port: Port, array: Any, *, stepped: bool) -> TensorSpec:
    dtype = NUMPY_TYPES[port.datatype]
    if array.dtype != dtype:
        found = DATATYPES.get(array.dtype, str(array.dtype))
        raise PackageRefused(
            f"Golden array {port.name!r} is {found}; {graph.path} takes {port.datatype}.",
            f"Save it as numpy {dtype}.",
            step=MISMATCH,
        )
    batched = port.shape is None or port.shape[:1] == (None,)
    item = array.shape[1:] if batched or stepped else array.shape
    declared = port.shape if port.shape is None else (port.shape[1:] if batched else port.shape)
    if not array.ndim or not array.size or (declared is not None and not _agrees(declared, item)):
        shape = ["?" if size is None else size for size in port.shape or ()]
        first = "its steps" if stepped else "rows"
        raise PackageRefused(
            f"Golden array {port.name!r} has shape {list(array.shape)}; {graph.path} takes {shape}.",
            f"Put {first} first." if batched or stepped else "Give what one request holds.",
            step=MISMATCH,
        )
    return TensorSpec(port.name, port.datatype, (-1, *item) if batched else tuple(item))


def _agrees(declared: Sequence[int | None], found: Sequence[int]) -> bool:
    pairs = zip(declared, found, strict=False)
    return len(declared) == len(found) and all(want is None or want == size for want, size in pairs)


def _check_between(features: Foreign, model: Foreign, states: Sequence[State]) -> None:
    """What the features give must be what the model takes."""
    given = set(features.outputs) - {one.output for one in states if one.graph == FEATURES}
    taken = set(model.inputs) - {one.input for one in states if one.graph == MODEL}
    if given != taken:
        raise PackageRefused(
            f"{features.path} gives {sorted(given)}; {model.path} takes {sorted(taken)}.",
            "Give both the same names; an input that a run's output follows is a --state, a constant one a --fix.",
            step=MISMATCH,
        )
    for name in sorted(given):
        one, other = features.outputs[name], model.inputs[name]
        shapes = one.shape is None or other.shape is None or _meet(one.shape, other.shape)
        if one.datatype != other.datatype or not shapes:
            raise PackageRefused(
                f"{features.path} gives {name!r} as {one.datatype} of {_shown(one)}; {model.path} takes "
                f"{other.datatype} of {_shown(other)}.",
                "Export the two so that they fit.",
                step=MISMATCH,
            )


def _meet(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(None in (here, there) or here == there for here, there in pairs)


def _shown(port: Port) -> str:
    return str(["?" if size is None else size for size in port.shape or ()])
