"""The map of the house names every room of the device's side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAP = (ROOT / "docs" / "architecture.md").read_text()
HOUSE = MAP[MAP.index("edge/hybridge_edge/") : MAP.index("cloud/hybridge_cloud/ ")]
MODULES = sorted(path.name for path in (ROOT / "edge" / "hybridge_edge").glob("[!_]*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_on_the_map(module: str) -> None:
    assert re.search(rf"(?<![a-z_]){re.escape(module)}", HOUSE)


def test_the_map_names_no_module_that_is_gone() -> None:
    assert sorted(re.findall(r"[a-z_0-9]+\.py", HOUSE)) == MODULES
