"""A real account for the rollouts' tests, and devices that play a core device's and a server's part over real paths."""

from __future__ import annotations

import functools
import json
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hybridge_cloud import registry
from hybridge_cloud.aws import greengrass, session
from hybridge_cloud.aws.greengrass import Wanted
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.deploy import Setting, Target, deploy
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet.membership import Ring, enrol, ensure_fleet
from hybridge_cloud.registry import RegistryRecord
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.lease import wall_clock
from hybridge_cloud.rollout.plan import Limits, Plan, Wave
from hybridge_cloud.rollout.record import Record
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_edge.contract import names
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.examination import Golden, GoldenTensor
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.lineage import Lineage
from hybridge_edge.contract.manifest import Manifest, Variant
from hybridge_edge.contract.package_file import MANIFEST_FILE, FileEntry
from hybridge_edge.contract.report import DeviceReport, Evidence, ModelReport
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.tensors import TensorSpec

SERVER = "hybridge.InferenceServer"
MODELS = ("toy", "other")
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
BAD = "3.0.0"
"""The version that activates well and answers other classes."""
QUICK = Limits(bake_seconds=0, report_seconds=600, deadline_seconds=600, minimum_requests=50, minimum_probes=50)


@functools.cache
def manifest(model: str, version: str) -> Manifest:
    """A package's manifest; the versions after the first were compared with it: 12 of 1,000 rows disagreed."""
    files = ("features.onnx", "model.onnx", "golden/raw.npy", "golden/answer.npy")
    tensor = (TensorSpec("x", "FP32", (-1, 3)),)
    return Manifest(
        name=model,
        version=version,
        files=tuple(FileEntry(file, sha256(file.encode()), 1) for file in files),
        inputs=tensor,
        features=tensor,
        outputs=tensor,
        variants=(Variant("cpu", files[0], files[1], ("CPUExecutionProvider",)),),
        golden=Golden((GoldenTensor("input", "x", files[2]), GoldenTensor("output", "x", files[3])), 1e-5, 1e-5),
        features_digest=sha256(model.encode()),
        lineage=Lineage("test", sha256(b"data"), sha256(b"code"), "2026-11-23T00:00:00+00:00"),
        comparisons=() if version == "1.0.0" else (Comparison(digest(model, "1.0.0"), 1000, 12),),
    )


def digest(model: str, version: str) -> str:
    return manifest(model, version).digest


@pytest.fixture(scope="session")
def stocked(account_of: Callable[[str], RunningSandbox]) -> RunningSandbox:
    """An account of these tests' own, with the components of two models, three versions each."""
    account = account_of("rollout")
    with session.using(account.environment):
        greengrass.create_component(recipe(SERVER, "1.0.0"))
        for model in MODELS:
            for version in VERSIONS:
                greengrass.create_component(recipe(f"hybridge.model.{model}", version))
                one = digest(model, version)
                record = RegistryRecord(model, version, one, one, digest(model, "features"), "any", "now")
                registry.add(Bucket(account.bucket), record)
                key = names.package_key(model, version, MANIFEST_FILE)
                Bucket(account.bucket).put(key, manifest(model, version).to_bytes())
    return account


@pytest.fixture(scope="module")
def sandbox(stocked: RunningSandbox, pointed_at: Any) -> Iterator[RunningSandbox]:
    with pointed_at(stocked) as sandbox:
        yield sandbox


def recipe(name: str, version: str) -> bytes:
    return json.dumps(
        {
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentPublisher": "tests",
            "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": "true"}}],
        }
    ).encode()


@pytest.fixture
def bucket(sandbox: RunningSandbox) -> Bucket:
    return Bucket(sandbox.bucket)


@dataclass
class Device:
    """The device's side, spoken over the sandbox's device paths: takes jobs, obeys epochs, reports with evidence."""

    thing: str
    sandbox: RunningSandbox
    reports: dict[str, ModelReport] = field(default_factory=dict)
    taken: list[str] = field(default_factory=list)
    sequence: int = 0
    live_rows: int = 400

    def turn(self) -> None:
        """Take every job that waits, do it, and report."""
        while (job := self._call("GET", "jobs/next?wait=0")) is not None:
            for name, component in job["document"]["components"].items():
                if ".model." in name and "configurationUpdate" in component:
                    self._hand_over(name.rpartition(".")[2], component)
            self.taken.append(job["document"]["deploymentId"])
            self._call("POST", f"jobs/{job['jobId']}", {"status": "SUCCEEDED", "statusDetails": {}})
        self.report()

    def _hand_over(self, model: str, component: dict[str, Any]) -> None:
        asked = component["configurationUpdate"]["merge"]["hybridge"]
        before = self.reports.get(model)
        if before is not None and before.epoch >= int(asked["epoch"]):
            return
        version = component["version"]
        self.reports.pop(f"{model} beside", None)
        if asked["mode"] == "shadow" and before is not None:
            self._stand_beside(model, version, before, asked)
            return
        evidence = None
        if before is not None:
            wrong = 180 if version == BAD else 3
            evidence = Evidence(before.digest, requests=500, probes=256, probes_disagreed=wrong, probe_us=900,
                                probe_us_before=900)  # fmt: skip
        self.reports[model] = ModelReport(
            model, version, digest(model, version), PackageState.ACTIVE, asked["rollout"], int(asked["epoch"]),
            evidence=evidence,
        )  # fmt: skip

    def _stand_beside(self, model: str, version: str, before: ModelReport, asked: dict[str, Any]) -> None:
        """Keep the version as a shadow: what it measured is of as many live rows as the device had requests."""
        wrong = 180 if version == BAD else 3
        rows = self.live_rows
        evidence = Evidence(
            before.digest, requests=rows, probes=256, probes_disagreed=wrong, probe_us=900, probe_us_before=900,
            live=rows, live_disagreed=wrong * rows // 256, live_timed=rows // 2,
        )  # fmt: skip
        rollout, epoch = asked["rollout"], int(asked["epoch"])
        self.reports[model] = replace(before, rollout=rollout, epoch=epoch, evidence=None)
        self.reports[f"{model} beside"] = ModelReport(
            model, version, digest(model, version), PackageState.SHADOW, rollout, epoch, evidence=evidence
        )

    def report(self) -> None:
        self.sequence += 1
        report = DeviceReport(self.thing, self.sequence, "1.0.0", tuple(self.reports.values()))
        session.call(
            "iot-data", "update_thing_shadow",
            thingName=self.thing, shadowName="hybridge", payload=report.to_shadow_update(),
        )  # fmt: skip

    def health(self) -> None:
        self._call("POST", "health", {
            "ggcVersion": "2.18.0", "platform": "linux", "architecture": "amd64", "thing": self.thing,
            "sequenceNumber": 1, "timestamp": 0, "messageType": "COMPLETE", "trigger": "NUCLEUS_LAUNCH",
            "overallDeviceStatus": "HEALTHY", "components": [],
        })  # fmt: skip

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        url = f"http://127.0.0.1:{self.sandbox.ports.control}/sandbox/coreDevices/{self.thing}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            raw = answer.read()
            return json.loads(raw) if raw else None


@dataclass
class Fleet:
    """A fleet whose devices run version 1.0.0 of both models."""

    name: str
    bucket: Bucket
    devices: tuple[Device, ...]
    limits: Limits = QUICK

    def ring(self, number: int) -> Ring:
        return membership.rings(self.name)[number]

    def turn(self) -> None:
        for device in self.devices:
            device.turn()

    def deployments(self, ring: int) -> list[str]:
        """Names of all deployments of a ring, in the order in which they were written."""
        found = session.pages(
            "greengrassv2", "list_deployments", "deployments", targetArn=self.ring(ring).arn, historyFilter="ALL"
        )
        return [item["deploymentName"] for item in sorted(found, key=lambda item: int(item["revisionId"]))]

    def latest(self, ring: int) -> greengrass.Deployment:
        found = greengrass.latest_deployment(self.ring(ring).arn)
        assert found is not None
        return found

    def plan(self, version: str, model: str = "toy", limits: Limits = QUICK) -> Record:
        """Store the plan of a rollout over every ring with a device."""
        waves = tuple(Wave(ring.number, ring.group, ring.devices)
                      for ring in membership.rings(self.name) if ring.devices)  # fmt: skip
        before = digest(model, "1.0.0")
        return rollouts.create(self.bucket, Plan(
            "unnumbered", self.name, model, version, digest(model, version), "1.0.0", before,
            Comparison(before, 1000, 12), waves, limits, wall_clock(), "tests",
        ))  # fmt: skip

    @staticmethod
    def wanted(version: str, merge: dict[str, Any] | None = None) -> Wanted:
        return Wanted(version, json.dumps(merge) if merge else "")


@pytest.fixture(scope="module")
def make_fleets(sandbox: RunningSandbox) -> Callable[..., Fleet]:
    """Makes a fleet: ``make_fleet(0, 1, 1)`` has one device in ring 0 and two in ring 1."""

    bucket = Bucket(sandbox.bucket)

    def make(*rings: int) -> Fleet:
        name = f"fleet-{uuid.uuid4().hex[:6]}"
        ensure_fleet(bucket, name)
        devices = []
        for number, ring in enumerate(rings):
            device = Device(f"{name}-d{number}", sandbox)
            session.call("iot", "create_thing", thingName=device.thing)
            enrol(device.thing, name, ring)
            device.health()
            devices.append(device)
        fleet = Fleet(name, bucket, tuple(devices))
        deploy(name, [Target("InferenceServer", "1.0.0"), *(Target(model, "1.0.0") for model in MODELS)],
               [Setting("InferenceServer", "tcp", "127.0.0.1:0")], bucket)  # fmt: skip
        fleet.turn()
        return fleet

    return make


@pytest.fixture
def make_fleet(make_fleets: Callable[..., Fleet]) -> Callable[..., Fleet]:
    return make_fleets


@pytest.fixture
def busy() -> Iterator[Callable[[Fleet], None]]:
    """Keeps a fleet's devices turning in a thread until the test ends."""
    stop, threads = threading.Event(), []

    def begin(fleet: Fleet) -> None:
        def run() -> None:
            while not stop.wait(0.05):
                fleet.turn()

        thread = threading.Thread(target=run)
        thread.start()
        threads.append(thread)

    yield begin
    stop.set()
    for thread in threads:
        thread.join()
