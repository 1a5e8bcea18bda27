"""What the demo looks at: devices through ``hybridge-edge status``, the account through ``hybridge retrain``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_cloud.demo.progress import program
from hybridge_cloud.sandbox import devices
from hybridge_cloud.sandbox.folder import SandboxFolder
from hybridge_edge.contract.errors import Refused

LOOK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Observer:
    """Looks at one sandbox's devices and at one model's retraining."""

    sandbox: Path
    model: str
    pipeline: str
    environment: Mapping[str, str]

    def endpoint(self, device: str, version: str) -> str | None:
        """The inference endpoint of a device on which ``version`` is active, or None while it is not."""
        status = self._status(device)
        if status is None:
            return None
        active = any(
            model["model"] == self.model and model["version"] == version and model["state"] == "ACTIVE"
            for model in status["models"]
        )
        return str(status["server"]["inference"]) if active else None

    def captured(self, device: str) -> int:
        """Samples that were fsynced on the device in its spool's whole life, over restarts of the server."""
        status = self._status(device)
        if status is None:
            raise Refused(
                f"The server of {device} does not answer.", f"See the logs in {self.sandbox / 'devices' / device}."
            )
        return int(status["capture"]["spool_records"])

    def inferred(self, device: str) -> int:
        """Observations offered to capture: windows of the sensor pipeline, since the load asks not to be captured."""
        status = self._status(device)
        return int(status["capture"]["offered"]) if status is not None else 0

    def returned(self) -> dict[str, Any]:
        """``hybridge retrain status``: counts of what lies in S3, the datasets, and with them their executions."""
        words = [program("hybridge"), "retrain", "status", "--model", self.model, "--json"]
        if self.pipeline:
            words += ["--pipeline", self.pipeline]
        done = self._run(words, self.environment)
        if done is None:
            raise Refused("'hybridge retrain status' failed.", "Run it by hand in the sandbox's environment.")
        found: dict[str, Any] = json.loads(done)
        return found

    def _status(self, device: str) -> dict[str, Any] | None:
        environment = {**self.environment, **devices.environment(SandboxFolder(self.sandbox), device)}
        done = self._run([program("hybridge-edge"), "status", "--json"], environment)
        return None if done is None else json.loads(done)

    @staticmethod
    def _run(words: list[str], environment: Mapping[str, str]) -> str | None:
        done = subprocess.run(
            words, env=dict(environment), capture_output=True, text=True, timeout=LOOK_SECONDS, check=False
        )
        return done.stdout if done.returncode == 0 else None
