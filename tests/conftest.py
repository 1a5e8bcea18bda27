"""An account for each folder that needs one, the environment left as it was found, and the longest tests first."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
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


@pytest.fixture(scope="session")
def buildspecs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("buildspecs")
    for name, text in PROJECTS.items():
        (folder / f"{name}.yml").write_text(text)
    for real in BUILDSPECS.glob("*.yml"):
        shutil.copy(real, folder)
    return folder


@pytest.fixture(scope="session")
def account_of(buildspecs: Path) -> Iterator[Callable[[str], RunningSandbox]]:
    """The account of a folder of tests, started when it is first asked for; the environment does not know of it.

    One a folder: what its tests publish, and what its queues and lists hold, is nobody else's, whichever files a
    process is given.
    """
    from hybridge_cloud.sandbox.lifecycle import running

    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda folder: stack.enter_context(running(buildspecs=str(buildspecs))))


@pytest.fixture(scope="session")
def pointed_at() -> Callable[[RunningSandbox], contextlib.AbstractContextManager[RunningSandbox]]:
    """AWS_* and HYBRIDGE_BUCKET point at an account inside ``with pointed_at(account):``, and no longer."""
    return _pointed_at


@contextlib.contextmanager
def _pointed_at(sandbox: RunningSandbox) -> Iterator[RunningSandbox]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _of_aws():
            patch.delenv(name)
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield sandbox
