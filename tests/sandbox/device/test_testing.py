"""The pytest plugin: the example runs with it, and whoever does not use it does not pay for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
PLUGIN = "hybridge_cloud.sandbox.device.testing"


def test_the_example_of_a_components_test_passes(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    ran = subprocess.run(
        [*call, "-c", "/dev/null", str(ROOT / "examples" / "component")], capture_output=True, text=True, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout


def test_the_plugin_imports_nothing_heavy_until_a_fixture_is_asked_for() -> None:
    program = (
        f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; "
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(eval(ran.stdout))  # a list of names that this test's own program printed
    assert "hybridge_cloud" in loaded
    assert not loaded & {"asyncio", "boto3", "yaml", "awsiot", "awscrt", "hybridge_edge", "paho", "psutil"}
