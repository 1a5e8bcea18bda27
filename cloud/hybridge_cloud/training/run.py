"""A run: the folder that a training leaves behind, whole or not at all. Format 1.

config.json      what was trained, on what, with which versions (RunConfig)
metrics.json     PART.METRIC -> number
checkpoint.pt    the model's state_dict; read with weights_only
heldout.npz      some raw validation windows and labels: parity, golden inputs and probes come from them
frozen.npz       some of the frozen slice: what the package is compared with others on; older runs have none
project/         the project's own files as they were
features.onnx    retrained runs only: the champion's graph, byte for byte
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from hybridge_cloud.training.loop import TrainConfig
from hybridge_cloud.training.output_folder import output_folder
from hybridge_cloud.training.project import Project, digest_of_sources, load_project
from hybridge_cloud.training.task import Samples
from hybridge_edge.arrays import for_file, from_file
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import Refused, UsageError

FORMAT = 1
HELDOUT_ROWS = 256
FROZEN_ROWS = 1024
HELDOUT_FILE = "heldout.npz"
FROZEN_FILE = "frozen.npz"
FEATURES_FILE = "features.onnx"
_INPUT = "inputs."


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run was made of.

    Attributes:
        run: its name. rows: how many samples each part had. features_digest: of features.onnx, "" for a first training.
        dataset: S3 key of the numbered dataset, parent: digest of the package retrained from; "" for a first training.
    """

    run: str
    project: str
    split: int
    train: TrainConfig
    data_digest: str
    code_digest: str
    created_at: str
    versions: dict[str, str]
    rows: dict[str, int]
    features_digest: str = ""
    dataset: str = ""
    parent: str = ""

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "run": self.run,
                "project": self.project,
                "split": self.split,
                "train": self.train.to_json(),
                "data_digest": self.data_digest,
                "code_digest": self.code_digest,
                "created_at": self.created_at,
                "versions": self.versions,
                "rows": self.rows,
                "features_digest": self.features_digest,
                "dataset": self.dataset,
                "parent": self.parent,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RunConfig:
        """Read config.json, or raise InvalidDocument."""
        reader = parse(data, "run's config.json")
        reader.format(FORMAT)
        config = cls(
            run=reader.text("run"),
            project=reader.text("project", check=names.model_name),
            split=reader.integer("split"),
            train=reader.object("train", TrainConfig.read),
            data_digest=reader.text("data_digest", check=names.digest),
            code_digest=reader.text("code_digest", check=names.digest),
            created_at=reader.text("created_at"),
            versions=reader.strings_by_name("versions"),
            rows={name: int(count) for name, count in reader.numbers_by_name("rows").items()},
            features_digest=reader.text("features_digest"),
            dataset=reader.text("dataset"),
            parent=reader.text("parent"),
        )
        reader.close()
        return config


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read from its folder. ``features_onnx`` is None for a first training, ``frozen`` for an older run."""

    folder: Path
    config: RunConfig
    metrics: dict[str, float]
    project: Project
    heldout: Samples
    frozen: Samples | None
    features_onnx: bytes | None

    def load_weights(self, module: nn.Module) -> nn.Module:
        """Give ``module`` the run's weights and set it to evaluation mode."""
        try:
            state = torch.load(self.folder / "checkpoint.pt", map_location="cpu", weights_only=True)
            module.load_state_dict(state)
        except (OSError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
            raise Refused(
                f"The checkpoint of run {self.config.run!r} cannot be read: {error}.", "Train again."
            ) from None
        return module.eval()


def write_run(
    out: Path,
    config: RunConfig,
    sources: dict[str, bytes],
    module: nn.Module,
    metrics: dict[str, float],
    valid: Samples,
    frozen: Samples,
    features_onnx: bytes | None = None,
) -> None:
    """Write a run folder. Raises Conflict where ``out`` is there already; nothing is left behind on any error."""
    with output_folder(out) as folder:
        (folder / "config.json").write_bytes(config.to_bytes())
        (folder / "metrics.json").write_bytes(canonical(metrics))
        torch.save(module.state_dict(), folder / "checkpoint.pt")
        _write_samples(folder / HELDOUT_FILE, valid, HELDOUT_ROWS)
        _write_samples(folder / FROZEN_FILE, frozen, FROZEN_ROWS)
        (folder / "project").mkdir()
        for name, content in sources.items():
            (folder / "project" / name).write_bytes(content)
        if features_onnx is not None:
            (folder / FEATURES_FILE).write_bytes(features_onnx)


def read_run(folder: Path) -> Run:
    """Read a run folder. Raises UsageError where it is none, InvalidDocument or Refused where it is damaged."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"{str(folder)!r} is not a run: it has no config.json.", "Make one with `hybridge train`.")
    config = RunConfig.from_bytes((folder / "config.json").read_bytes())
    try:
        document = json.loads((folder / "metrics.json").read_bytes())
        metrics = Reader({"metrics": document}, "run's metrics.json").numbers_by_name("metrics")
        heldout = _read_samples(folder / HELDOUT_FILE)
        frozen = _read_samples(folder / FROZEN_FILE) if (folder / FROZEN_FILE).exists() else None
        features = folder / FEATURES_FILE
        features_onnx = features.read_bytes() if config.features_digest else None
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise Refused(f"The run {str(folder)!r} is damaged: {error}.", "Train again.") from None
    project = load_project(folder / "project")
    if digest_of_sources(project.sources()) != config.code_digest:
        raise Refused(f"The project's files in run {str(folder)!r} were changed after it was trained.", "Train again.")
    return Run(folder, config, metrics, project, heldout, frozen, features_onnx)


def _write_samples(path: Path, samples: Samples, limit: int) -> None:
    """Write at most ``limit`` of the samples, evenly chosen."""
    chosen = samples.take(np.linspace(0, len(samples) - 1, min(limit, len(samples))).astype(np.int64))
    arrays: dict[str, Any] = {_INPUT + name: for_file(array) for name, array in chosen.inputs.items()}
    content = io.BytesIO()
    np.savez_compressed(content, ids=chosen.ids, labels=chosen.labels, groups=chosen.groups, **arrays)
    path.write_bytes(content.getvalue())


def _read_samples(path: Path) -> Samples:
    with np.load(path, allow_pickle=False) as data:
        inputs = {name.removeprefix(_INPUT): from_file(data[name]) for name in data.files if name.startswith(_INPUT)}
        return Samples(data["ids"], inputs, data["labels"], data["groups"])
