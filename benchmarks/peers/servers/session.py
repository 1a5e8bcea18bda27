"""ONNX Runtime as every contender opens it, and what a server program is told."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

INPUT, OUTPUT = "input", "scores"
_ERRORS_ONLY = 3


def open_session(path: str) -> Any:
    """One intra-op thread, no spinning, on the CPU: the same for all."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Served:
    """One model: the path of its graph, the shape of one row, the size of its answer."""

    name: str
    path: str
    shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True, slots=True)
class Task:
    """What a server program has to do: which models, on which ports of 127.0.0.1."""

    models: tuple[Served, ...]
    port: int
    second_port: int
    third_port: int

    def write(self, path: Path) -> None:
        models = [[one.name, one.path, list(one.shape), one.classes] for one in self.models]
        path.write_text(json.dumps([models, self.port, self.second_port, self.third_port]))

    @classmethod
    def read(cls, path: str) -> Task:
        models, *ports = json.loads(Path(path).read_text())
        served = tuple(Served(name, graph, tuple(shape), classes) for name, graph, shape, classes in models)
        return cls(served, *ports)

    @classmethod
    def given(cls) -> Task:
        """The one whose file is this program's first argument."""
        return cls.read(sys.argv[1])
