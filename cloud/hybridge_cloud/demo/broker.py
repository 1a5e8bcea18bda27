"""The broker between the sensors and the devices' pipelines: mosquitto where it is installed, else the account's own.

A site has a broker of its own, and mosquitto is the usual one. Either way it is reached on loopback alone.
"""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.demo.stage import Stage
from hybridge_edge.mqtt import Broker

HOST = "127.0.0.1"
START_SECONDS = 20.0
_SEARCHED = "/usr/sbin:/usr/local/sbin"
"""Where Debian puts it, and where a user's PATH does not look."""


@dataclass(frozen=True, slots=True)
class SiteBroker:
    """A broker, and the file that says how to reach it: host, port, ca, certificate, key ("" for none)."""

    name: str
    file: Path

    def fields(self) -> dict[str, str]:
        return {key: str(value) for key, value in json.loads(self.file.read_text()).items()}


def read(file: Path) -> Broker:
    """What a client needs, from such a file."""
    fields = json.loads(file.read_text())
    ca, certificate, key = (Path(fields[name]) if fields[name] else None for name in ("ca", "certificate", "key"))
    return Broker(fields["host"], int(fields["port"]), ca, certificate, key)


def choose(stage: Stage) -> SiteBroker:
    """Start mosquitto beside the story where there is one; else the broker of the account, which runs already."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SEARCHED)
    if program is None:
        return SiteBroker("the account's broker", stage.sandbox / "sensors" / "mqtt.json")
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    configuration = stage.out / "mosquitto.conf"
    configuration.write_text(f"listener {port} {HOST}\nallow_anonymous true\npersistence false\n")
    running = stage.start("mosquitto", [program, "-c", str(configuration)])

    def answers() -> str | None:
        running.check()
        with socket.socket() as probe:
            return "" if probe.connect_ex((HOST, port)) == 0 else None

    stage.progress.wait("waiting for mosquitto", START_SECONDS, answers, every=0.1)
    file = stage.out / "mqtt.json"
    file.write_text(json.dumps({"host": HOST, "port": port, "ca": "", "certificate": "", "key": ""}) + "\n")
    return SiteBroker("mosquitto", file)
