"""Every component of ours on both nuclei: deployed, upgraded, failed, recovered; and models swapped under load.

Some minutes, so on demand: HYBRIDGE_TEST_LONG=1. What fails is a version whose ``run`` ends at once, which is what a
server that cannot start does.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest

from hybridge_cloud import publish as publishing
from hybridge_cloud.aws import greengrass, session
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components import build
from hybridge_cloud.components import publish as components
from hybridge_cloud.components.checkout import component_version
from hybridge_cloud.deploy import Setting, Target, deploy
from hybridge_cloud.fleet.membership import ensure_fleet
from hybridge_cloud.sandbox import devices
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_edge import runtime
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import HybridgeError

pytestmark = pytest.mark.skipif("HYBRIDGE_TEST_LONG" not in os.environ, reason="HYBRIDGE_TEST_LONG takes minutes")

WIDTH = 3
"""Of make_package's model."""
OURS = ("InferenceServer", "SensorPipeline", "SampleUplink")
UPGRADED, BROKEN = "9.0.0", "9.0.1"
CLASSIC, LITE = "every-classic", "every-lite"
SETTLES_S = 240.0


class Load(threading.Thread):
    """Asks a device without a pause longer than a few milliseconds, and never retries."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        self.target = target
        self.stop = threading.Event()
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self) -> None:
        window = numpy.zeros((1, WIDTH), numpy.float32)
        with Client(self.target, retry=False) as client:
            while not self.stop.wait(0.005):
                try:
                    self.versions[client.infer("toy", {"raw": window}).version] += 1
                except HybridgeError as error:
                    self.failures.append(str(error))


@dataclass
class Fleet:
    bucket: Bucket
    sandbox: RunningSandbox

    def deploy(self, *targets: str, settings: tuple[str, ...] = ()) -> dict[str, str]:
        """Deploy, and each device's end of it as its own nucleus tells."""
        wanted, merged = [Target.parse(one) for one in targets], [Setting.parse(one) for one in settings]
        done = deploy("every", wanted, merged, self.bucket)
        deployments = {ring.id for ring in done.rings}
        ends: dict[str, str] = {}
        until = time.monotonic() + SETTLES_S
        while len(ends) < 2:
            assert time.monotonic() < until, ends
            for thing in (CLASSIC, LITE):
                answer = session.call("greengrassv2", "list_effective_deployments", coreDeviceThingName=thing)
                for one in answer["effectiveDeployments"]:
                    status = one["coreDeviceExecutionStatus"]
                    if one["deploymentId"] in deployments and status not in ("QUEUED", "IN_PROGRESS"):
                        ends[thing] = status
            time.sleep(0.3)
        return ends

    def installed(self, thing: str, component: str) -> tuple[str, str]:
        answer = session.call(
            "greengrassv2", "list_installed_components", coreDeviceThingName=thing, topologyFilter="ALL"
        )
        for one in answer["installedComponents"]:
            if one["componentName"] == f"hybridge.{component}":
                return one["componentVersion"], one["lifecycleState"]
        return "", ""

    def becomes(self, thing: str, component: str, version: str, *states: str) -> None:
        until = time.monotonic() + SETTLES_S
        while self.installed(thing, component)[0] != version or self.installed(thing, component)[1] not in states:
            assert time.monotonic() < until, (thing, component, self.installed(thing, component), version, states)
            time.sleep(0.3)

    def target(self, thing: str) -> str:
        folder = Path(devices.environment(self.sandbox.folder, thing)["HYBRIDGE_RUNTIME_DIR"])
        return runtime.Endpoint.read(folder).inference

    def answers(self, version: str) -> None:
        """On both devices, within the client's own attempts."""
        for thing in (CLASSIC, LITE):
            until = time.monotonic() + SETTLES_S
            while True:
                try:
                    with Client(self.target(thing)) as client:
                        if client.infer("toy", {"raw": numpy.zeros((1, WIDTH), numpy.float32)}).version == version:
                            break
                except HybridgeError:
                    pass
                assert time.monotonic() < until, (thing, version)
                time.sleep(0.3)


@pytest.fixture(scope="module")
def fleet(
    sandbox: RunningSandbox, signer: Any, make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    bucket = Bucket.from_environment()
    ensure_fleet(bucket, "every")
    for version in (component_version(), UPGRADED):
        for built in build.build(tmp_path_factory.mktemp("built"), only=OURS, version=version):
            components.publish(built, bucket)
    for name in OURS:
        _publish_broken(name)
    for version, bias in (("1.0.0", 0.0), ("2.0.0", 1.0)):
        publishing.publish(make_package("toy", version, bias, 0.0), "every", signer.trust, bucket)
    for thing, mode in ((CLASSIC, "classic"), (LITE, "lite")):
        devices.add(sandbox.folder, sandbox.ports, thing, "every", mode, 0, signer.trust, lambda text: None)
    yield Fleet(bucket, sandbox)
    for thing in (CLASSIC, LITE):
        devices.remove(sandbox.folder, sandbox.ports, thing)


def _publish_broken(name: str) -> None:
    """The upgraded version's recipe with a ``run`` that ends at once."""
    recipe = json.loads(greengrass.recipe_of(greengrass.component_versions(f"hybridge.{name}")[UPGRADED]))
    recipe["ComponentVersion"] = BROKEN
    for manifest in recipe["Manifests"]:
        manifest["Lifecycle"]["run"] = {"Script": "exit 3"}
    greengrass.create_component(json.dumps(recipe).encode())


def test_all_of_them_deploy_upgrade_fail_and_recover_on_both_nuclei(fleet: Fleet) -> None:
    settings = (
        "InferenceServer:tcp=127.0.0.1:0", "SensorPipeline:model=toy", "SensorPipeline:brokerPort=9",
        f"SampleUplink:bucket={fleet.bucket.name}",
    )  # fmt: skip
    first = [f"{name}@{component_version()}" for name in OURS]
    assert set(fleet.deploy(*first, "toy@1.0.0", settings=settings).values()) == {"SUCCEEDED"}
    fleet.answers("1.0.0")

    # A model comes under load: nobody who asks notices.
    loads = [Load(fleet.target(thing)) for thing in (CLASSIC, LITE)]
    for load in loads:
        load.start()
    for version in ("2.0.0", "1.0.0", "2.0.0"):
        assert set(fleet.deploy(f"toy@{version}").values()) == {"SUCCEEDED"}
        fleet.answers(version)
    for load in loads:
        load.stop.set()
        load.join()
        assert load.failures == []
        assert set(load.versions) == {"1.0.0", "2.0.0"}

    assert set(fleet.deploy(*(f"{name}@{UPGRADED}" for name in OURS)).values()) == {"SUCCEEDED"}
    for name in OURS:
        for thing in (CLASSIC, LITE):
            fleet.becomes(thing, name, UPGRADED, "RUNNING")
    fleet.answers("2.0.0")

    for name in OURS:
        fleet.deploy(f"{name}@{BROKEN}")
        # Classic calls a process that was started a success; lite waits for it to stay. See docs/core-device.md.
        fleet.becomes(LITE, name, BROKEN, "BROKEN")
        assert fleet.installed(CLASSIC, name) in {(BROKEN, "BROKEN"), (UPGRADED, "RUNNING"), (BROKEN, "ERRORED")}
        fleet.deploy(f"{name}@{UPGRADED}")
        for thing in (CLASSIC, LITE):
            fleet.becomes(thing, name, UPGRADED, "RUNNING")
    fleet.answers("2.0.0")
