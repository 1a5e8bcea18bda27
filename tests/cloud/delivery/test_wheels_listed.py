"""What a component's process imports stands in its list of wheels: a device has nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hybridge_cloud.components import wheelhouse

COMPONENTS = Path(__file__).resolve().parents[3] / "components"
MODULES = {
    "InferenceServer": ("supervisor", "worker", "front.__main__", "admission.trial_child", "cli"),
    "SensorPipeline": ("pipeline", "client.sync", "mqtt"),
    "SampleUplink": ("uplink",),
}
PROGRAM = """
import importlib, sys
from importlib.metadata import packages_distributions
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module("hybridge_edge." + name)
found = packages_distributions()
tops = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
for top in tops & set(found):
    print(*(distribution.lower().replace("_", "-") for distribution in found[top]))
"""
"""A line for each package imported: the distributions that have it, of which one has to be in the list."""
OURS = {"hybridge", "hybridge-edge"}
TAKEN_IF_THERE = {"grpcio-tools"}
"""grpcio imports it where it finds it."""


def missing(component: str, listed: set[str]) -> set[str]:
    command = [sys.executable, "-c", PROGRAM, *MODULES[component]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    packages = [set(line.split()) for line in done.stdout.splitlines()]
    assert packages
    return {"|".join(sorted(one)) for one in packages if not one & (listed | OURS | TAKEN_IF_THERE)}


@pytest.mark.parametrize("component", MODULES)
def test_every_import_is_in_the_list(component: str) -> None:
    listed = set(wheelhouse.read_list(COMPONENTS / component / "wheels.txt").distributions)
    assert missing(component, listed) == set()


def test_the_control_a_wheel_left_out_is_found() -> None:
    listed = set(wheelhouse.read_list(COMPONENTS / "InferenceServer" / "wheels.txt").distributions)
    assert missing("InferenceServer", listed - {"hpack"}) == {"hpack"}
