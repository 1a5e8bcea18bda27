"""How to test a Greengrass component without a core: run ``pytest examples/component``.

The fixtures come with ``hybridge[sandbox]``; see docs/core-device.md.
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridge_cloud.sandbox.device.hosted import HostedCore

HERE = Path(__file__).parent
THERMOMETER, LISTENER = "com.example.Thermometer", "com.example.Listener"


def recipes(tmp_path: Path) -> Path:
    """The recipes, with this test's interpreter in them, which has the SDK; on a core a venv has it."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for path in (HERE / "recipes").iterdir():
        (folder / path.name).write_text(path.read_text().replace('"$PYTHON"', sys.executable))
    return folder


def test_readings_are_published_on_both_nuclei_and_it_stops_when_told(both_cores: HostedCore, tmp_path: Path) -> None:
    core = both_cores
    quickly = {THERMOMETER: {"everySeconds": "0.05"}}
    deployed = core.deploy(recipes(tmp_path), artifacts=HERE / "artifacts", merge=quickly)
    assert deployed.succeeded, deployed.reason
    heard: queue.Queue[Any] = queue.Queue()
    client = core.client(LISTENER)
    try:
        client.subscribe_to_topic(topic="thermometer/readings", on_stream_event=heard.put)
        assert heard.get(timeout=30).json_message.message["celsius"] == 21.5
    finally:
        client.close()
    assert core.remove(THERMOMETER).succeeded
    assert "stopped after" in core.log(THERMOMETER)


def test_a_wrong_setting_breaks_it_and_the_nucleus_says_so(
    core_device: Callable[..., HostedCore], tmp_path: Path
) -> None:
    core = core_device("lite")
    # Whether this fails the deployment is a race, as on a core: lite looks for a few seconds only.
    core.deploy(recipes(tmp_path), artifacts=HERE / "artifacts", merge={THERMOMETER: {"everySeconds": "often"}})
    core.wait_for_status(THERMOMETER, "BROKEN")
    assert "could not convert string to float" in core.log(THERMOMETER)
