"""The longest first: two processes share the files of tests, and neither shall wait for the other's last one."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("system") is None)
