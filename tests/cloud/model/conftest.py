"""One small training of the real project, shared by the tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hybridge_cloud.compile.bundle import Compiled, compile_run
from hybridge_cloud.training.train import train_run

EPOCHS = 4
WATCH = Path(__file__).resolve().parents[3] / "examples" / "watch"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this session alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRIDGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def watch() -> Path:
    """The example as it is committed."""
    return WATCH


def copy_project(target: Path) -> Path:
    shutil.copytree(WATCH, target, ignore=shutil.ignore_patterns("__pycache__"))
    settings = target / "project.toml"
    settings.write_text(settings.read_text().replace("epochs = 30", f"epochs = {EPOCHS}"))
    return target


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example that trains for fewer epochs."""
    return copy_project(tmp_path_factory.mktemp("project") / "watch")


@pytest.fixture
def own_project(tmp_path: Path) -> Path:
    """The same, for a test that changes it."""
    return copy_project(tmp_path / "watch")


@pytest.fixture(scope="session")
def run(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of that project."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_run(project, folder)
    return folder


@pytest.fixture(scope="session")
def compiled(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """A package of that run, unsigned."""
    return compile_run(run, tmp_path_factory.mktemp("packages") / "package")


@pytest.fixture
def package(compiled: Compiled, tmp_path: Path) -> Path:
    """A copy of the package, for a test that signs or alters it."""
    return Path(shutil.copytree(compiled.folder, tmp_path / "package"))
