"""A project: a folder with ``project.toml`` and the Python files of its task."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import tomllib

from hybridge_cloud.data.label_rule import LabelRule
from hybridge_cloud.training.loop import TrainConfig
from hybridge_cloud.training.project_code import MODULE_PREFIX, project_code
from hybridge_cloud.training.task import Task
from hybridge_edge.contract import names
from hybridge_edge.contract.budgets import Budgets
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Refused, UsageError
from hybridge_edge.contract.expectations import Guard

PROJECT_FILE = "project.toml"
SOURCE_TYPES = frozenset({".py", ".toml", ".json"})
MAX_SOURCE_BYTES = 1024 * 1024
MAX_SOURCES = 64


@dataclass(frozen=True, slots=True)
class ParityConfig:
    """How far ONNX may be from torch: element by element, and in one metric of the task."""

    rtol: float
    atol: float
    metric: str
    metric_tolerance: float

    @classmethod
    def read(cls, reader: Reader) -> ParityConfig:
        return cls(
            rtol=reader.number("rtol"),
            atol=reader.number("atol"),
            metric=reader.text("metric"),
            metric_tolerance=reader.number("metric_tolerance"),
        )


@dataclass(frozen=True, slots=True)
class Project:
    """What project.toml says, and where it lies.

    Attributes:
        task_class: FILE:CLASS, below the folder. version: of the first package. max_batch: rows one run may hold.
        guards: bounds of outputs that the project states itself. budgets: what a device holds its packages to.
        labels: which labels of returned samples count.
    """

    folder: Path
    name: str
    task_class: str
    version: str
    train: TrainConfig
    parity: ParityConfig
    max_batch: int
    guards: tuple[Guard, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    labels: LabelRule = field(default_factory=LabelRule)

    def task(self) -> Task:
        """Import the task's class and make one. Raises Refused where it is not there or not a Task."""
        file, _, class_name = self.task_class.partition(":")
        module = _import(self.folder, file)
        found = getattr(module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, Task)):
            raise Refused(
                f"{file}.py of project {self.name!r} has no task class {class_name!r}.",
                "Name a subclass of hybridge_cloud.training.task.Task in project.toml.",
            )
        with project_code(f"Making {class_name}", ours_too=True):
            return found()

    def sources(self) -> dict[str, bytes]:
        """The project's own files by name, code and configuration: what a run keeps a copy of."""
        paths = [p for p in sorted(self.folder.iterdir()) if p.suffix in SOURCE_TYPES and p.is_file()]
        if len(paths) > MAX_SOURCES or sum(p.stat().st_size for p in paths) > MAX_SOURCE_BYTES:
            raise Refused(
                f"The sources of project {self.name!r} are more than {MAX_SOURCES} files or {MAX_SOURCE_BYTES} bytes.",
                "Keep data out of the project's folder.",
            )
        return {path.name: path.read_bytes() for path in paths}


def load_project(folder: Path) -> Project:
    """Read a project's configuration; its code is imported only by ``task()``.

    Raises:
        UsageError: no project there. InvalidDocument: project.toml says something wrong.
    """
    path = folder / PROJECT_FILE
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is not a project: it has no {PROJECT_FILE}.", "Try: examples/watch.")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{PROJECT_FILE} of {str(folder)!r} is not valid TOML: {error}.") from None
    reader = Reader(document, PROJECT_FILE)
    name, task_class, version = reader.object("project", _read_names)
    project = Project(
        folder=folder.resolve(),
        name=name,
        task_class=task_class,
        version=version,
        train=reader.object("train", TrainConfig.read),
        parity=reader.object("parity", ParityConfig.read),
        max_batch=reader.object("package", lambda package: package.integer("max_batch", minimum=1, maximum=1024)),
        guards=reader.objects("guards", Guard.read, ()),
        budgets=reader.object("budgets", Budgets.read) if "budgets" in reader.names() else Budgets(),
        labels=reader.object("labels", LabelRule.read) if "labels" in reader.names() else LabelRule(),
    )
    reader.close()
    return project


def digest_of_sources(sources: dict[str, bytes]) -> str:
    """``sha256:`` over names and contents, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(sources):
        total.update(f"{name}\0{len(sources[name])}\0".encode() + sources[name])
    return "sha256:" + total.hexdigest()


def _read_names(reader: Reader) -> tuple[str, str, str]:
    return (
        reader.text("name", check=names.model_name),
        reader.text("task"),
        reader.text("version", check=names.version),
    )


def _import(folder: Path, file: str) -> ModuleType:
    """Import ``file`` as part of a package of its own, so that its relative imports work and no two projects meet."""
    package_name = MODULE_PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    path = folder / f"{file}.py"
    if not path.is_file():
        raise Refused(f"The project has no file {file}.py.", f"Correct `task` in {PROJECT_FILE}.")
    for name in [name for name in sys.modules if name == package_name or name.startswith(package_name + ".")]:
        del sys.modules[name]  # the folder may have changed since
    package = ModuleType(package_name)
    package.__path__ = [str(folder)]
    sys.modules[package_name] = package
    spec = importlib.util.spec_from_file_location(f"{package_name}.{file}", path)
    if spec is None or spec.loader is None:
        raise Refused(f"{file}.py cannot be imported.", f"Correct `task` in {PROJECT_FILE}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a run's copy stays as it was written
    try:
        with project_code(f"Importing {file}.py", ours_too=True):
            spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes_bytecode
    return module
