"""From recordings to version 2 in the registry: each hop is what a user would type, and a look at what came of it."""

from __future__ import annotations

import csv
import os
import sys
from functools import partial

import numpy as np

from hybridge_cloud.components.checkout import component_version
from hybridge_cloud.demo.broker import SiteBroker
from hybridge_cloud.demo.progress import Background, sandbox_environment
from hybridge_cloud.demo.stage import FIRST, FLEET, PIPELINE, Stage
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused

LOAD_RATE = 50.0
REPLAY_RATE = 45.0
LOAD_WINDOWS = 256
READY_SECONDS = 60.0
REPLAY_SECONDS = 600.0
DRAIN_SECONDS = 120.0
RETRAIN_SECONDS = 300.0
RUNTIME = ("InferenceServer", "SensorPipeline", "SampleUplink")


def train_and_pack(stage: Stage) -> None:
    """A run, a package, a signature."""
    progress, out = stage.progress, stage.out
    progress.environment = sandbox_environment(None)
    with progress.hop("train", "features and model, torch, on the people the model may see"):
        progress.command("train", stage.options.project, "--out", out / "run", "--split", str(stage.options.split))
    with progress.hop("compile", "two ONNX graphs, compared with torch on held-out windows"):
        progress.command("compile", out / "run", "--out", stage.package(FIRST))
    with progress.hop("sign", "a signature that devices check"):
        progress.command("package", "keygen", "--key", stage.key, "--trust", stage.trust)
        progress.command("package", "sign", stage.package(FIRST), "--key", stage.key)
        progress.command("package", "verify", stage.package(FIRST), "--trust", stage.trust)


def start_account(stage: Stage) -> None:
    """The sandbox, and everything published into it."""
    progress = stage.progress
    with progress.hop("sandbox", "an account on loopback: S3, SQS, EventBridge, IoT, MQTT, Greengrass, CodePipeline"):
        # However this process ends, its sandbox ends with it, unless it shall stay.
        ends = () if stage.options.keep else ("--owner", str(os.getpid()))
        progress.command("sandbox", "up", "--dir", stage.sandbox, *ends)
        progress.environment = sandbox_environment(stage.sandbox)
        progress.environment["HYBRIDGE_TRUST"] = str(stage.trust)
    with progress.hop("publish", "the runtime's components and the model's"):
        progress.command("fleet", "create", FLEET)
        progress.command("components", "publish")
        progress.command("publish", stage.package(FIRST), "--fleet", FLEET)


def start_fleet(stage: Stage) -> None:
    """Devices in turns of both nuclei, spread over the rings, the first in ring 0."""
    with stage.progress.hop("devices", f"{len(stage.devices)} core devices, one process tree each"):
        for index, device in enumerate(stage.devices):
            stage.progress.command(
                "sandbox", "device", "add", device, "--fleet", FLEET,
                "--mode", ("classic", "lite")[index % 2], "--ring", str(index % names.RINGS),
            )  # fmt: skip


def deploy_first(stage: Stage, site: SiteBroker) -> None:
    """Version 1 and the runtime beside it."""
    broker = site.fields()
    settings = {
        "InferenceServer:tcp": "127.0.0.1:0",
        "InferenceServer:liveShare": "0.2",
        "InferenceServer:reportSeconds": "1",
        "SensorPipeline:model": stage.project.name,
        "SensorPipeline:brokerHost": broker["host"],
        "SensorPipeline:brokerPort": broker["port"],
        "SensorPipeline:brokerCa": broker["ca"],
        "SensorPipeline:brokerCertificate": broker["certificate"],
        "SensorPipeline:brokerKey": broker["key"],
        "SampleUplink:bucket": stage.progress.environment["HYBRIDGE_BUCKET"],
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    targets = [f"{name}@{component_version()}" for name in RUNTIME] + [f"{stage.project.name}@{FIRST}"]
    with stage.progress.hop("deploy", "server, pipeline, uplink and version 1, by Greengrass recipes"):
        stage.progress.command("deploy", *targets, "--fleet", FLEET, *words, "--wait")


def start_load(stage: Stage) -> Background:
    """An application on every device: from here to the end it asks at a steady rate and is never told to wait.

    It asks windows of the frozen slice, which no device's sensors ever send.
    """
    with stage.progress.hop("serve", f"an independent caller asks each device {LOAD_RATE:.0f} times a second"):
        inputs = stage.dataset.frozen.inputs[stage.task.inputs[0].name]
        rows = np.unique(np.linspace(0, len(inputs) - 1, LOAD_WINDOWS).astype(int))
        np.savez(
            stage.out / "probes.npz",
            windows=np.ascontiguousarray(inputs[rows], np.float32),
            classes=np.array(len(stage.task.labels)),
        )
        endpoints = []
        for device in stage.devices:
            ready = partial(stage.look.endpoint, device, FIRST)
            endpoints.append(f"{device}={stage.progress.wait(f'waiting for {device}', READY_SECONDS, ready)}")
        words = [sys.executable, "-m", "hybridge_cloud.demo.load", "--probes", str(stage.out / "probes.npz")]
        words += ["--model", stage.project.name, "--input", stage.task.inputs[0].name, "--rate", str(LOAD_RATE)]
        return stage.start("load", [*words, "--out", str(stage.out / "load"), *endpoints])


def replay(stage: Stage, site: SiteBroker) -> None:
    """New people move; what the devices capture of it comes back."""
    progress, samples = stage.progress, stage.replayed
    with progress.hop(
        "replay", f"{len(samples)} windows of new people over MQTT ({site.name}) to the sensor pipelines"
    ):
        words = ["--project", str(stage.options.project), "--split", str(stage.options.split)]
        words += ["--rate", str(REPLAY_RATE), "--broker", str(site.file), *stage.devices]
        running = stage.start("replay", [sys.executable, "-m", "hybridge_cloud.demo.replay", *words])
        progress.wait("replaying", REPLAY_SECONDS, lambda: "" if running.process.poll() is not None else None)
        if running.process.returncode:
            raise Refused("The replay failed.", f"See {stage.log('replay')}.")
    with progress.hop("return", "captured samples, features only, batch by batch to S3"):
        progress.say(progress.wait("waiting for the last batch", DRAIN_SECONDS, partial(_drained, stage)))


def import_labels(stage: Stage) -> None:
    """What a person would say of the samples: here the recordings' own annotations, joined by sample id."""
    path, samples, labels = stage.out / "labels.csv", stage.replayed, stage.task.labels
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sample_id", "label"])
        writer.writerows(zip(samples.ids.tolist(), (labels[label] for label in samples.labels.tolist()), strict=True))
    with stage.progress.hop("label", "the recordings' own annotations, joined by sample id"):
        stage.progress.command("labels", "import", path, "--model", stage.project.name, "--source", "annotation")


def retrain(stage: Stage) -> None:
    """One dataset, one execution, one better version."""
    progress, name = stage.progress, stage.project.name
    with progress.hop("retrain", "S3 -> EventBridge -> SQS -> gate -> dataset -> CodePipeline"):
        progress.command(
            "retrain", "pipeline", "create", "--name", PIPELINE, "--project", stage.options.project, "--fleet", FLEET,
            "--signing-key", stage.key, "--split", str(stage.options.split), "--device-share", "1.0",
        )  # fmt: skip
        stage.pipeline = PIPELINE
        progress.command(
            "retrain", "gate", "--model", name, "--pipeline", PIPELINE, "--until-started", "--timeout-seconds", "90",
            "--min-samples", "100", "--min-devices", str(len(stage.devices)), "--device-share", "1.0",
        )  # fmt: skip
        progress.say(
            progress.wait("quality, train, evaluate, publish", RETRAIN_SECONDS, partial(_published, stage), every=1.0)
        )


def _drained(stage: Stage) -> str | None:
    """Every window inferred, every captured sample in S3."""
    windows = len(stage.replayed)
    if sum(stage.look.inferred(device) for device in stage.devices) < windows:
        return None
    captured = sum(stage.look.captured(device) for device in stage.devices)
    returned = stage.look.returned()["returned"]["samples"]
    return f"{captured} captured of {windows}, {returned} returned" if 0 < captured <= returned else None


def _published(stage: Stage) -> str | None:
    found = stage.look.returned()["datasets"]
    if not found:
        return None
    first = found[0]
    ended = [item["status"] for item in first["executions"] if item["status"] not in ("InProgress", "Succeeded")]
    if ended:
        raise Refused(
            f"The pipeline's execution ended as {ended[0]}; the dataset is {first['stands']}.",
            f"See the builds' logs in {stage.sandbox / 'logs' / 'builds'}.",
        )
    return f"dataset {first['key']}: published" if first["stands"] == "published" else None
