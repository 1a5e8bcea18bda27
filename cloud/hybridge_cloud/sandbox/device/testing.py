"""A pytest plugin: core devices for tests of components, without a core, an account or a network.

Installed with ``hybridge[sandbox]`` it is there in every pytest run, and costs nothing until a fixture is asked for::

    def test_it_says_hello(core_device):
        core = core_device("lite")
        assert core.deploy(Path("recipes")).succeeded
        core.wait_for_log("com.example.Hello", "hello")

See docs/core-device.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hybridge_cloud.sandbox.device.hosted import HostedCore

NUCLEI = ("classic", "lite")


@pytest.fixture
def core_device() -> Iterator[Callable[..., HostedCore]]:
    """Start core devices, ``core_device(mode, **limits)``: ``classic`` or ``lite``; they end with the test.

    ``limits`` replace single fields of ``mode.Limits``, such as ``running_after=5.0`` for lite's own wait.
    """
    from dataclasses import replace

    from hybridge_cloud.sandbox.device.hosted import HostedCore, quick
    from hybridge_cloud.sandbox.device.mode import Mode

    started: list[HostedCore] = []
    # A short path: a Unix socket's may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="core") as folder:

        def start(mode: str, **limits: Any) -> HostedCore:
            chosen = Mode(mode)
            root = Path(folder) / str(len(started))
            started.append(HostedCore(root, chosen, limits=replace(quick(chosen), **limits)))
            return started[-1]

        try:
            yield start
        finally:
            for core in started:
                core.close()


@pytest.fixture(params=NUCLEI)
def both_cores(request: pytest.FixtureRequest, core_device: Callable[..., HostedCore]) -> HostedCore:
    """One device, and the test runs twice: on each nucleus."""
    return core_device(request.param)
