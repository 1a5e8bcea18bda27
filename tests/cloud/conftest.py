"""Shared by the cloud's tests: one real account for all folders, and the command line."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.sandbox.lifecycle import RunningSandbox, running

BUILDSPECS = Path(__file__).resolve().parents[2] / "cloud" / "infra" / "buildspecs"
DOES_NOTHING = "version: 0.2\nphases:\n  build:\n    commands:\n      - 'true'\n"


@pytest.fixture(scope="session")
def account() -> Iterator[RunningSandbox]:
    """A sandbox without devices, whose build project ``nothing`` does nothing; the environment does not know of it."""
    with tempfile.TemporaryDirectory(prefix="hyb") as temporary:
        buildspecs = Path(temporary) / "buildspecs"
        buildspecs.mkdir()
        (buildspecs / "nothing.yml").write_text(DOES_NOTHING)
        for real in BUILDSPECS.glob("*.yml"):
            shutil.copy(real, buildspecs)
        with running(Path(temporary) / "s", str(buildspecs)) as sandbox:
            yield sandbox


@pytest.fixture(scope="module")
def sandbox(account: RunningSandbox) -> Iterator[RunningSandbox]:
    """That account; AWS_* and HYBRIDGE_BUCKET point at it while a module uses it, and no longer."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        for name, value in account.environment.items():
            patch.setenv(name, value)
        yield account


@pytest.fixture
def bucket(sandbox: RunningSandbox) -> Bucket:
    return Bucket.from_environment()


@pytest.fixture
def hybridge(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line in this process; returns its exit code."""
    from hybridge_cloud.cli import main

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["hybridge", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return call
