"""One sandbox for the tests of this folder, with build projects of its own."""

from __future__ import annotations

import functools
import json
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from hybridge_cloud.aws import session
from hybridge_cloud.sandbox import things
from hybridge_cloud.sandbox.lifecycle import RunningSandbox


@pytest.fixture(scope="session")
def sandbox(account_of: Callable[[str], RunningSandbox]) -> RunningSandbox:
    return account_of("sandbox")


@pytest.fixture(scope="session")
def client(sandbox: RunningSandbox) -> Callable[[str], Any]:
    return clients(sandbox)


def clients(sandbox: RunningSandbox) -> Callable[[str], Any]:
    """boto3 clients of a sandbox, unmodified but for the endpoint that the environment would name."""
    given = sandbox.environment
    session = boto3.Session(given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], region_name=given["AWS_REGION"])

    @functools.cache
    def make(name: str) -> Any:
        endpoint = given.get(f"AWS_ENDPOINT_URL_{name.upper()}", given["AWS_ENDPOINT_URL"])
        return session.client(name, endpoint_url=endpoint, config=Config(retries={"total_max_attempts": 1}))

    return make


@pytest.fixture(scope="session")
def make_clients() -> Callable[[RunningSandbox], Callable[[str], Any]]:
    return clients


def recipe(name: str, version: str, uri: str = "", dependencies: dict[str, Any] | None = None) -> bytes:
    manifest: dict[str, Any] = {
        "Platform": {"os": "linux", "architecture": "amd64", "runtime": "*"},
        "Lifecycle": {"run": "echo up"},
    }
    if uri:
        manifest["Artifacts"] = [{"Uri": uri}]
    document = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": name,
        "ComponentVersion": version,
        "ComponentPublisher": "tests",
        "ComponentDependencies": dependencies or {},
        "Manifests": [manifest],
    }
    return json.dumps(document).encode()


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., bytes]:
    return recipe


class RegisteredDevice:
    """The device's side of the device-facing paths, spoken over plain HTTP by a thing that is really registered."""

    def __init__(self, sandbox: RunningSandbox, folder: Path, fleet: str) -> None:
        self.sandbox = sandbox
        self.thing = f"thing-{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.fleet = fleet
        self.sequence = 0
        with session.using(sandbox.environment):
            things.ensure_fleet(fleet)
            things.enrol(sandbox.ports, folder, self.thing, fleet, 0, "classic", None)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.sandbox.ports.control}{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                raw = answer.read()
                return answer.status, json.loads(raw) if raw else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def next(self, wait: float = 0) -> tuple[int, Any]:
        return self.call("GET", f"/sandbox/coreDevices/{self.thing}/jobs/next?wait={wait}")

    def report(self, job: str, status: str, details: dict[str, Any] | None = None) -> tuple[int, Any]:
        path = f"/sandbox/coreDevices/{self.thing}/jobs/{job}"
        return self.call("POST", path, {"status": status, "statusDetails": details or {}})

    def health(self, components: list[dict[str, Any]], status: str = "HEALTHY") -> tuple[int, Any]:
        self.sequence += 1
        message = {
            "ggcVersion": "2.18.0", "platform": "linux", "architecture": "amd64", "runtime": "aws_nucleus_classic",
            "thing": self.thing, "sequenceNumber": self.sequence, "timestamp": 0, "messageType": "COMPLETE",
            "trigger": "NUCLEUS_LAUNCH", "overallDeviceStatus": status, "components": components,
        }  # fmt: skip
        return self.call("POST", f"/sandbox/coreDevices/{self.thing}/health", message)


@pytest.fixture
def registered_device(sandbox: RunningSandbox, tmp_path: Path) -> RegisteredDevice:
    return RegisteredDevice(sandbox, tmp_path, f"fleet-{uuid.uuid4().hex[:6]}")


@pytest.fixture(scope="session")
def device_type() -> type[RegisteredDevice]:
    return RegisteredDevice
