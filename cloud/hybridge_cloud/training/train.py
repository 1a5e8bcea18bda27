"""From a project to a run: a first training, or a retraining on samples that devices returned."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_cloud.training.features import graph_features, refuse_another_generation, torch_features
from hybridge_cloud.training.loop import MAX_SEED, Epoch, answer, train_model
from hybridge_cloud.training.output_folder import refuse_unwritable
from hybridge_cloud.training.project import Project, digest_of_sources, load_project
from hybridge_cloud.training.project_code import project_code
from hybridge_cloud.training.run import RunConfig, write_run
from hybridge_cloud.training.task import Arrays, Dataset, Task
from hybridge_edge.arrays import for_file
from hybridge_edge.contract.codec import IMAGES
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import InvalidInput, PackageRefused, Refused, UsageError
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE

_LIBRARIES = ("hybridge", "numpy", "onnx", "onnxruntime", "onnxscript", "torch")
OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class ReturnedSamples:
    """What came back from devices and was labelled: features by name, each (rows, ...) float32, and (rows,) labels."""

    features: Arrays
    labels: NDArray[np.int64]


def train_run(
    project_folder: Path, out: Path, split: int = 0, seed: int | None = None, on_epoch: OnEpoch | None = None
) -> RunConfig:
    """Train a project from its own data and write the run to ``out``. ``seed`` defaults to project.toml's.

    Raises:
        UsageError: no such project or split. Conflict: ``out`` is there already. Refused: data missing, no result.
    """
    refuse_unwritable(out)
    project = load_project(project_folder)
    with project_code("Training"):
        task = project.task()
        dataset = task.dataset(split)
        features = _features_of(dataset, lambda inputs: torch_features(task, inputs))
        return _train(project, task, dataset, features, out, split, seed, on_epoch)


def retrain_run(
    project_folder: Path,
    out: Path,
    champion_package_folder: Path,
    returned: ReturnedSamples,
    split: int = 0,
    seed: int | None = None,
    dataset_key: str = "",
    parent_digest: str = "",
    on_epoch: OnEpoch | None = None,
) -> RunConfig:
    """Train ``model()`` anew on the project's training data and returned samples, with the champion's features frozen.

    The champion's features.onnx makes the features of the project's own rows, and goes into the run byte for byte.

    Args:
        dataset_key: S3 key of the numbered dataset. parent_digest: the champion's, "" to take it from its manifest.

    Raises:
        Refused: features() of the project changed since. InvalidInput: returned samples do not fit.
        PackageRefused: the champion's folder holds another features.onnx than its manifest says.
    """
    refuse_unwritable(out)
    project = load_project(project_folder)
    task = project.task()
    manifest, features_onnx = _champion(champion_package_folder)
    if manifest.name != project.name:
        raise InvalidInput(f"The champion is a package of {manifest.name!r}, the project is {project.name!r}.")
    for spec in manifest.features:
        array = returned.features.get(spec.name)
        if array is None or array.shape != (len(returned.labels), *spec.item_shape):
            found = "missing" if array is None else f"of shape {list(array.shape)}"
            raise InvalidInput(
                f"Returned feature {spec.name!r} is {found}; "
                f"[{len(returned.labels)}, {', '.join(map(str, spec.item_shape))}] was expected."
            )
    back = _Return(returned, features_onnx, dataset_key, parent_digest or manifest.digest)
    with project_code("Training"):
        dataset = task.dataset(split)
        refuse_another_generation(task, features_onnx, dataset.valid.inputs)
        features = _features_of(dataset, lambda inputs: graph_features(features_onnx, inputs, task.codecs))
        return _train(project, task, dataset, features, out, split, seed, on_epoch, back)


@dataclass(frozen=True, slots=True)
class _Features:
    train: Arrays
    valid: Arrays
    frozen: Arrays


@dataclass(frozen=True, slots=True)
class _Return:
    samples: ReturnedSamples
    features_onnx: bytes
    dataset_key: str
    parent: str


def _features_of(dataset: Dataset, compute: Callable[[Arrays], Arrays]) -> _Features:
    return _Features(compute(dataset.train.inputs), compute(dataset.valid.inputs), compute(dataset.frozen.inputs))


def _train(
    project: Project,
    task: Task,
    dataset: Dataset,
    features: _Features,
    out: Path,
    split: int,
    seed: int | None,
    on_epoch: OnEpoch | None,
    back: _Return | None = None,
) -> RunConfig:
    config = project.train if seed is None else replace(project.train, seed=seed)
    rows, labels = features.train, dataset.train.labels
    if back is not None:
        rows = {name: np.concatenate([array, back.samples.features[name]]) for name, array in rows.items()}
        labels = np.concatenate([labels, back.samples.labels.astype(np.int64)])
    if not 0 <= config.seed <= MAX_SEED:
        raise UsageError(f"The seed {config.seed} is not a number from 0 to {MAX_SEED}.")
    trained = train_model(task, rows, labels, features.valid, dataset.valid.labels, config, on_epoch)
    frozen = task.metrics(answer(task, trained.module, features.frozen), dataset.frozen.labels)
    metrics = {f"valid.{name}": value for name, value in trained.metrics.items()}
    metrics |= {f"frozen.{name}": value for name, value in frozen.items()}
    if not all(math.isfinite(value) for value in metrics.values()):
        raise Refused(f"The task's metrics are not all finite: {metrics}.", "Correct metrics().")
    if project.parity.metric not in trained.metrics:
        raise Refused(
            f"The task has no metric {project.parity.metric!r}; it has {', '.join(trained.metrics)}.",
            "Correct [parity] metric in project.toml: compile compares by it.",
        )
    sources = project.sources()
    now = datetime.now(UTC)
    run = RunConfig(
        run=f"{project.name}-{now:%Y%m%dT%H%M%S}-split{split}-seed{config.seed}",
        project=project.name,
        split=split,
        train=config,
        data_digest=_data_digest(dataset, back.samples if back else None),
        code_digest=digest_of_sources(sources),
        created_at=now.isoformat(timespec="seconds"),
        versions={"python": platform.python_version(), **{name: version(name) for name in _libraries(task)}},
        rows={
            "train": len(dataset.train),
            "valid": len(dataset.valid),
            "frozen": len(dataset.frozen),
            "returned": len(labels) - len(dataset.train),
        },
        features_digest=sha256(back.features_onnx) if back else "",
        dataset=back.dataset_key if back else "",
        parent=back.parent if back else "",
    )
    features_onnx = back.features_onnx if back else None
    write_run(out, run, sources, trained.module, metrics, dataset.valid, dataset.frozen, features_onnx)
    return run


def _libraries(task: Task) -> tuple[str, ...]:
    """Distributions that a run depends on."""
    return (*_LIBRARIES, "pillow") if any(codec.codec in IMAGES for codec in task.codecs) else _LIBRARIES


def _champion(folder: Path) -> tuple[Manifest, bytes]:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is not a package: it has no {MANIFEST_FILE}.")
    manifest = Manifest.from_bytes(path.read_bytes())
    features_onnx = (folder / manifest.variants[0].features).read_bytes()
    if sha256(features_onnx) != manifest.features_digest:
        raise PackageRefused(f"features.onnx in {str(folder)!r} is not the one its manifest names.", "Fetch it again.")
    return manifest, features_onnx


def _data_digest(dataset: Dataset, returned: ReturnedSamples | None) -> str:
    """sha256 over all raw inputs and labels that were trained or measured on, and over what devices returned."""
    total = hashlib.sha256()
    arrays: list[NDArray[Any]] = []
    for part in (dataset.train, dataset.valid, dataset.frozen):
        arrays += [*part.inputs.values(), part.labels]
    if returned is not None:
        arrays += [*returned.features.values(), returned.labels]
    for array in arrays:
        plain = for_file(array)
        total.update(f"{plain.dtype.str} {plain.shape}".encode() + np.ascontiguousarray(plain).tobytes())
    return "sha256:" + total.hexdigest()
