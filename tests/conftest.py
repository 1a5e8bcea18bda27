"""The longest first: processes share the files of tests, and none shall wait for another's last one."""

from __future__ import annotations

import pytest

LONGEST = ("test_loop.py", "test_readme.py", "test_install.py", "test_deploy.py", "test_power_cut.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONGEST)))
