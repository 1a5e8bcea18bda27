"""One account for all tests of a process, the environment they leave as they found it, and the longest first."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hybridge_cloud.sandbox.lifecycle import RunningSandbox

LONGEST = ("test_loop.py", "test_readme.py", "test_install.py", "test_deploy.py", "test_power_cut.py")
BUILDSPECS = Path(__file__).resolve().parents[1] / "cloud" / "infra" / "buildspecs"
PROJECTS = {
    "nothing": """
version: 0.2
phases:
  build: {commands: ["true"]}
""",
    "green": """
version: 0.2
env: {variables: {GREETING: hello}}
phases:
  install: {commands: ["export CARRIED=over"]}
  build:
    commands:
      - echo "$GREETING $DATASET $CARRIED $CODEBUILD_BUILD_ID"
      - test "$CARRIED" = over
      - cat source.txt
      - cp source.txt "$RESULT"
      - echo "$DATASET" >> "$RESULT"
  post_build: {commands: ['echo "succeeding=$CODEBUILD_BUILD_SUCCEEDING $CARRIED" >> "$RESULT"']}
""",
    "red": """
version: 0.2
phases:
  build: {commands: ["echo this goes wrong", "false", "touch $RESULT.never"]}
  post_build: {commands: ['echo "succeeding=$CODEBUILD_BUILD_SUCCEEDING" > "$RESULT"']}
""",
    "slow": """
version: 0.2
phases:
  build: {commands: ['touch "$RESULT"', "sleep 300"]}
""",
}
"""Build projects beside the real ones."""


def _of_aws() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "HYBRIDGE_BUCKET"}


_AT_FIRST = _of_aws()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes share the files of tests, and none shall wait for another's last one."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """After a module's last test AWS_* is what it was: else the next module would talk to an account not its own."""
    yield
    if nextitem is None or nextitem.path != item.path:
        assert _of_aws() == _AT_FIRST, f"{item.path.name} left the environment changed"


@contextlib.contextmanager
def _pointed_at(sandbox: RunningSandbox) -> Iterator[RunningSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _of_aws():
            patch.delenv(name)
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield sandbox


@pytest.fixture(scope="session")
def buildspecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buildspecs")
    for name, text in PROJECTS.items():
        (folder / f"{name}.yml").write_text(text)
    for real in BUILDSPECS.glob("*.yml"):
        shutil.copy(real, folder)
    return folder


@pytest.fixture(scope="session")
def sandbox_apart(buildspecs: Path) -> Iterator[RunningSandbox]:
    """The one account of this process, without devices; the environment does not know of it."""
    from hybridge_cloud.sandbox.lifecycle import running

    with running(buildspecs=str(buildspecs)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def sandbox_here(sandbox_apart: RunningSandbox) -> Iterator[RunningSandbox]:
    """That account; AWS_* and HYBRIDGE_BUCKET point at it while a module uses it, and no longer."""
    with _pointed_at(sandbox_apart) as pointed:
        yield pointed
