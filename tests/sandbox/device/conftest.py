"""A real sandbox, and core devices with short waits in it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import itertools
import json
import os
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from hybridge_cloud.aws import session
from hybridge_cloud.sandbox import lifecycle, things
from hybridge_cloud.sandbox.device.core import CoreDevice
from hybridge_cloud.sandbox.device.mode import Limits, Mode, limits_of

PATIENCE = 20.0
_numbers = itertools.count(1)


def short(mode: Mode) -> Limits:
    """A nucleus's limits, with waits a test can afford."""
    return dataclasses.replace(
        limits_of(mode),
        running_after=0.3 if mode is Mode.LITE else 0.0,
        restart_after=0.02,
        stop_within=1.0,
        status_after=0.02,
        poll_seconds=2,
        retry_longest=0.2,
    )


@pytest.fixture
def limits() -> Callable[[Mode], Limits]:
    return short


def wait_until(condition: Callable[[], Any]) -> Any:
    """The first true answer of ``condition``; fails when none came."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{condition} stayed false")


@pytest.fixture(scope="session", name="wait_until")
def _wait_until() -> Callable[[Callable[[], Any]], Any]:
    return wait_until


@pytest.fixture
def private() -> Iterator[Path]:
    """A short folder, for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        yield Path(folder)


class Account:
    """What a test publishes and deploys, with boto3 alone."""

    def __init__(self, sandbox: lifecycle.RunningSandbox) -> None:
        self.s3 = boto3.client("s3")
        self.greengrass = boto3.client("greengrassv2")
        self.iot = boto3.client("iot")
        self.sandbox = sandbox
        self.bucket = sandbox.bucket

    def group(self) -> str:
        name = f"group-{next(_numbers)}"
        self.iot.create_thing_group(thingGroupName=name)
        return name

    def enrol(self, folder: Path, *groups: str) -> str:
        thing = f"thing-{next(_numbers)}"
        with session.using(self.sandbox.environment):
            things.identify(self.sandbox.ports, folder, thing)
        for group in groups:
            self.iot.add_thing_to_thing_group(thingName=thing, thingGroupName=group)
        return thing

    def publish(
        self,
        name: str,
        version: str,
        steps: dict[str, Any] | str,
        *,
        configuration: dict[str, Any] | None = None,
        dependencies: dict[str, tuple[str, str]] | None = None,
        files: dict[str, str] | None = None,
    ) -> str:
        """Create a component version; ``files`` go into one ZIP artifact, whose key is returned."""
        key = f"components/{name}/{version}/bundle.zip"
        artifacts = []
        if files is not None:
            data = io.BytesIO()
            with zipfile.ZipFile(data, "w") as archive:
                for path, text in files.items():
                    archive.writestr(path, text)
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=data.getvalue())
            artifacts.append({"Uri": f"s3://{self.bucket}/{key}", "Unarchive": "ZIP"})
        recipe = {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentConfiguration": {"DefaultConfiguration": configuration or {}},
            "ComponentDependencies": {
                other: {"VersionRequirement": wanted, "DependencyType": kind}
                for other, (wanted, kind) in (dependencies or {}).items()
            },
            "Manifests": [
                {
                    "Platform": {"os": "linux", "runtime": "*"},
                    "Artifacts": artifacts,
                    "Lifecycle": steps if isinstance(steps, dict) else {"run": steps},
                }
            ],
        }
        self.greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
        return key

    def deploy(
        self,
        group: str,
        components: dict[str, Any],
        policy: str = "ROLLBACK",
        policies: dict[str, Any] | None = None,
    ) -> str:
        """Deploy NAME to VERSION, or to (VERSION, configuration merge)."""
        wanted = {}
        for name, item in components.items():
            version, merge = item if isinstance(item, tuple) else (item, None)
            update = {} if merge is None else {"configurationUpdate": {"merge": json.dumps(merge)}}
            wanted[name] = {"componentVersion": version, **update}
        arn = self.iot.describe_thing_group(thingGroupName=group)["thingGroupArn"]
        answer = self.greengrass.create_deployment(
            targetArn=arn, components=wanted, deploymentPolicies={"failureHandlingPolicy": policy, **(policies or {})}
        )
        return str(answer["deploymentId"])

    def outcome(self, thing: str, deployment: str) -> tuple[str, str]:
        """Wait for a deployment's end on a device: its status and reason."""

        def ended() -> tuple[str, str] | None:
            try:
                found = self.greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
            except self.greengrass.exceptions.ResourceNotFoundException:
                return None
            for item in found:
                if item["deploymentId"] == deployment:
                    status = item["coreDeviceExecutionStatus"]
                    return None if status in ("QUEUED", "IN_PROGRESS") else (status, item.get("reason", ""))
            return None

        return wait_until(ended)  # type: ignore[no-any-return]

    def installed(self, thing: str) -> dict[str, tuple[str, str]]:
        """Component to (version, state), as the cloud has it from the device."""
        found = self.greengrass.list_installed_components(coreDeviceThingName=thing, topologyFilter="ALL")
        return {
            item["componentName"]: (item["componentVersion"], item["lifecycleState"])
            for item in found["installedComponents"]
            if not item["componentName"].startswith("aws.")
        }


@pytest.fixture(scope="module")
def account(sandbox: lifecycle.RunningSandbox, pointed_at: Any) -> Iterator[Account]:
    with pointed_at(sandbox):
        yield Account(sandbox)


class Running:
    """A core device on a thread of its own."""

    def __init__(self, root: Path, thing: str, mode: Mode, limits: Limits) -> None:
        self.root = root
        self.thing = thing
        self.core: CoreDevice | None = None
        self._arguments = (root, thing, mode, limits, os.environ["AWS_ENDPOINT_URL_GREENGRASSV2"])
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        wait_until(lambda: self.core is not None)

    async def _run(self) -> None:
        core = CoreDevice(*self._arguments)
        self.core = core
        await core.run(self._end)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
            self._thread.join()
            self._loop.close()

    def log(self, component: str) -> str:
        path = self.root / "logs" / f"{component}.log"
        return path.read_text() if path.exists() else ""


@contextlib.contextmanager
def _starting(account: Account) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    with tempfile.TemporaryDirectory(prefix="hyb") as folder:

        def begin(mode: Mode, *groups: str, again: Running | None = None) -> Running:
            if again is not None:
                again.stop()
                root, thing = again.root, again.thing
            else:
                root = Path(folder) / f"d{len(running)}"
                root.mkdir()
                thing = account.enrol(root, *groups)
            running.append(Running(root, thing, mode, short(mode)))
            return running[-1]

        try:
            yield begin
        finally:
            for device in running:
                device.stop()


@pytest.fixture
def start(account: Account) -> Iterator[Callable[..., Running]]:
    """Start a core device in the given groups; stopped when the test ends."""
    with _starting(account) as begin:
        yield begin


@pytest.fixture(scope="module")
def start_once(account: Account) -> Iterator[Callable[..., Running]]:
    """As ``start``, for a device that a module's tests share."""
    with _starting(account) as begin:
        yield begin
