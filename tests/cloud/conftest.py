"""Shared by the cloud's tests: one real account for all folders, and the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.sandbox.lifecycle import RunningSandbox


@pytest.fixture(scope="module")
def sandbox(account_of: Callable[[str], RunningSandbox], pointed_at: Any) -> Iterator[RunningSandbox]:
    """An account without devices, pointed at while a module uses it."""
    with pointed_at(account_of("cloud")) as sandbox:
        yield sandbox


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
