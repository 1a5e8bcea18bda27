"""The longest first: two processes share the files of tests, and neither shall wait for the other's last one."""

from __future__ import annotations

import pytest

LONGEST = "test_loop.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name != LONGEST)
