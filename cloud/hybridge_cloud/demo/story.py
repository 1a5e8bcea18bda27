"""The hops of one turn, in order. Each is what a user would type; the demo types it and looks at what came of it."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from hybridge_cloud.compile.evaluate import evaluate_package
from hybridge_cloud.components.checkout import component_version
from hybridge_cloud.demo import page
from hybridge_cloud.demo.answers import LoadRecord, matches, prove
from hybridge_cloud.demo.observe import Observer
from hybridge_cloud.demo.progress import Background, Progress, sandbox_environment
from hybridge_cloud.demo.summary import Accuracy, Samples, Summary
from hybridge_cloud.retrain.compare import interval
from hybridge_cloud.training.project import Project, load_project
from hybridge_cloud.training.task import Dataset
from hybridge_edge.contract.errors import Refused

FLEET = "watches"
PIPELINE = "watch-retraining"
FIRST, SECOND = "1.0.0", "2.0.0"
LOAD_RATE = 50.0
REPLAY_RATE = 45.0
PROBES = 16
MOST_DEVICES = 8
DRAIN_SECONDS = 120.0
RETRAIN_SECONDS = 300.0
SETTLE_SECONDS = 3.0  # the load sees version 2 for a while
RUNTIME = ("InferenceServer", "SensorPipeline", "SampleUplink")


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for."""

    project: Path
    out: Path
    devices: int
    split: int
    keep: bool


class Story:
    """One run. ``turn`` does all of it; what it started is stopped at its end, however it ends."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options = options
        self._out = options.out
        self._sandbox = options.out / "sandbox"
        self._progress = Progress(options.out, {}, console)
        self._devices = tuple(f"watch-{number}" for number in range(1, options.devices + 1))
        self._background: list[Background] = []
        self._pipeline = ""
        self._project: Project = load_project(options.project)
        self._task = self._project.task()
        self._dataset: Dataset = self._task.dataset(options.split)
        self._probes: NDArray[np.float32] = np.zeros((0,), np.float32)

    def turn(self) -> Summary:
        """Run every hop. Raises HybridgeError naming the hop that failed."""
        progress = self._progress
        try:
            self._train_and_pack()
            self._start_account()
            self._start_fleet()
            self._deploy_first()
            load = self._start_load()
            self._replay()
            self._import_labels()
            self._retrain()
            self._deploy_second()
            load.check()
            load.stop()
            return self._conclude()
        except Refused as error:
            raise Refused(f"The demo stopped at '{progress.current}'. {error.message}", error.remedy) from None
        finally:
            self._stop()

    def _train_and_pack(self) -> None:
        progress, options, out = self._progress, self._options, self._out
        progress.environment = sandbox_environment(None)
        with progress.hop("train", "features and model, torch, on the people the model may see"):
            progress.command("train", options.project, "--out", out / "run", "--split", str(options.split))
        with progress.hop("compile", "two ONNX graphs, compared with torch on held-out windows"):
            progress.command("compile", out / "run", "--out", out / FIRST)
        with progress.hop("sign", "a signature that devices check"):
            progress.command("package", "keygen", "--key", self._key, "--trust", self._trust)
            progress.command("package", "sign", out / FIRST, "--key", self._key)
            progress.command("package", "verify", out / FIRST, "--trust", self._trust)

    def _start_account(self) -> None:
        progress = self._progress
        with progress.hop(
            "sandbox", "an account on loopback: S3, SQS, EventBridge, IoT, MQTT, Greengrass, CodePipeline"
        ):
            # However this process ends, its sandbox ends with it, unless it shall stay.
            ends = () if self._options.keep else ("--owner", str(os.getpid()))
            progress.command("sandbox", "up", "--dir", self._sandbox, *ends)
            progress.environment = sandbox_environment(self._sandbox)
            progress.environment["HYBRIDGE_TRUST"] = str(self._trust)
        with progress.hop("publish", "the runtime's components and the model's"):
            progress.command("fleet", "create", FLEET)
            progress.command("components", "publish")
            progress.command("publish", self._out / FIRST, "--fleet", FLEET)

    def _start_fleet(self) -> None:
        with self._progress.hop("devices", f"{len(self._devices)} core devices, one process tree each"):
            for index, device in enumerate(self._devices):
                mode = ("classic", "lite")[index % 2]
                self._progress.command("sandbox", "device", "add", device, "--fleet", FLEET, "--mode", mode)

    def _deploy_first(self) -> None:
        broker = json.loads((self._sandbox / "sensors" / "mqtt.json").read_text())
        settings = {
            "InferenceServer:tcp": "127.0.0.1:0",
            "SensorPipeline:model": self._project.name,
            "SensorPipeline:brokerHost": broker["host"],
            "SensorPipeline:brokerPort": str(broker["port"]),
            "SensorPipeline:brokerCa": broker["ca"],
            "SensorPipeline:brokerCertificate": broker["certificate"],
            "SensorPipeline:brokerKey": broker["key"],
            "SampleUplink:bucket": self._progress.environment["HYBRIDGE_BUCKET"],
        }
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        version = component_version()
        runtime = [f"{name}@{version}" for name in RUNTIME]
        with self._progress.hop("deploy", "server, pipeline, uplink and version 1, by Greengrass recipes"):
            self._progress.command(
                "deploy", *runtime, f"{self._project.name}@{FIRST}", "--fleet", FLEET, *words, "--wait"
            )

    def _start_load(self) -> Background:
        """An application on every device: from here to the end it asks at a steady rate and is never told to wait."""
        with self._progress.hop("serve", f"an independent caller asks each device {LOAD_RATE:.0f} times a second"):
            self._probes = self._choose_probes()
            np.savez(self._out / "probes.npz", windows=self._probes, classes=np.array(len(self._task.labels)))
            endpoints = []
            for device in self._devices:
                status = self._progress.wait(f"waiting for {device}", 60.0, partial(self._look.endpoint, device, FIRST))
                endpoints.append(f"{device}={status}")
            words = [sys.executable, "-m", "hybridge_cloud.demo.load", "--probes", str(self._out / "probes.npz")]
            words += ["--model", self._project.name, "--input", self._task.inputs[0].name, "--rate", str(LOAD_RATE)]
            load = Background.start(
                "load",
                [*words, "--out", str(self._out / "load"), *endpoints],
                self._progress.environment,
                self._log("load"),
            )
            self._background.append(load)
        return load

    def _replay(self) -> None:
        progress, options = self._progress, self._options
        samples = self._dataset.replay
        if samples is None:
            raise Refused("The project has no part to replay.", "Give its dataset() a part 'replay'.")
        with progress.hop("replay", f"{len(samples)} windows of new people over MQTT to the sensor pipelines"):
            words = ["--project", str(options.project), "--split", str(options.split), "--rate", str(REPLAY_RATE)]
            words += ["--broker", str(self._sandbox / "sensors" / "mqtt.json"), *self._devices]
            replay = Background.start(
                "replay",
                [sys.executable, "-m", "hybridge_cloud.demo.replay", *words],
                progress.environment,
                self._log("replay"),
            )
            self._background.append(replay)
            progress.wait("replaying", 600.0, lambda: "ended" if replay.process.poll() is not None else None)
            if replay.process.returncode:
                raise Refused("The replay failed.", f"See {self._log('replay')}.")
        with progress.hop("return", "captured samples, features only, batch by batch to S3"):
            progress.say(
                progress.wait("waiting for the last batch", DRAIN_SECONDS, partial(self._drained, len(samples)))
            )

    def _import_labels(self) -> None:
        """What a person would say of the samples: here the recordings' own annotations, joined by sample id."""
        samples = self._dataset.replay
        assert samples is not None
        path = self._out / "labels.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sample_id", "label"])
            labels = self._task.labels
            writer.writerows(
                zip(samples.ids.tolist(), (labels[label] for label in samples.labels.tolist()), strict=True)
            )
        with self._progress.hop("label", "the recordings' own annotations, joined by sample id"):
            self._progress.command("labels", "import", path, "--model", self._project.name, "--source", "annotation")

    def _retrain(self) -> None:
        progress, name = self._progress, self._project.name
        with progress.hop("retrain", "S3 -> EventBridge -> SQS -> gate -> dataset -> CodePipeline"):
            progress.command(
                "retrain", "pipeline", "create", "--name", PIPELINE, "--project", self._options.project,
                "--fleet", FLEET, "--signing-key", self._key, "--split", str(self._options.split),
                "--device-share", "1.0",
            )  # fmt: skip
            self._pipeline = PIPELINE
            progress.command(
                "retrain", "gate", "--model", name, "--pipeline", PIPELINE, "--until-started",
                "--timeout-seconds", "90", "--min-samples", "100", "--min-devices", str(len(self._devices)),
                "--device-share", "1.0",
            )  # fmt: skip
            progress.say(
                progress.wait("quality, train, evaluate, publish", RETRAIN_SECONDS, self._published, every=1.0)
            )

    def _deploy_second(self) -> None:
        with self._progress.hop("version 2", "the challenger that was better, on the whole fleet, under load"):
            self._progress.command("deploy", f"{self._project.name}@{SECOND}", "--fleet", FLEET, "--wait")
            for device in self._devices:
                self._progress.wait(f"waiting for {device}", 60.0, partial(self._look.endpoint, device, SECOND))
            self._background[0].check()
            time.sleep(SETTLE_SECONDS)

    def _conclude(self) -> Summary:
        progress, name = self._progress, self._project.name
        with progress.hop("summary", "what the caller saw, what S3 holds, how good each version is"):
            progress.command(
                "package", "fetch", f"{name}@{SECOND}", "--out", self._out / SECOND, "--trust", self._trust
            )
            folders = {FIRST: self._out / FIRST, SECOND: self._out / SECOND}
            expected = {version: self._expected(folder) for version, folder in folders.items()}
            records = [LoadRecord.read(self._out / "load" / f"{device}.npz") for device in self._devices]
            status = self._look.returned()
            returned = status["returned"]
            frozen = self._dataset.frozen
            summary = Summary(
                split=self._options.split,
                devices=self._devices,
                before=self._accuracy(folders[FIRST]),
                after=self._accuracy(folders[SECOND]),
                frozen_windows=len(frozen),
                samples=Samples(
                    replayed=len(self._dataset.replay or ()),
                    captured=sum(self._look.captured(device) for device in self._devices),
                    returned=int(returned["samples"]),
                    duplicated=int(returned["duplicates"]),
                ),
                proofs=tuple(prove(record, expected) for record in records),
                executions=self._executions(status),
                seconds=progress.seconds,
                load_rate=LOAD_RATE,
            )
            proven = {
                f"{record.device} {version}": match
                for record in records
                for version, match in matches(record, expected).items()
            }
            summary.write(self._out / "report.json")
            page.write(summary, records, proven, self._out / "report.html")
        summary.check(SECOND)
        return summary

    @property
    def _look(self) -> Observer:
        return Observer(self._sandbox, self._project.name, self._pipeline, self._progress.environment)

    @property
    def _key(self) -> Path:
        return self._out / "keys" / "signing-key.pem"

    @property
    def _trust(self) -> Path:
        return self._out / "keys" / "trust.json"

    def _log(self, name: str) -> Path:
        return self._out / "logs" / f"{name}.log"

    def _choose_probes(self) -> NDArray[np.float32]:
        """The frozen windows that version 1 is least sure of, one a recording: there another version answers otherwise.

        No device's sensors ever send one of them.
        """
        frozen = self._dataset.frozen
        outputs = evaluate_package(self._out / FIRST, frozen.inputs, frozen.labels, self._task).outputs
        doubtful = next(iter(outputs.values())).max(axis=1).argsort(kind="stable")
        _, first = np.unique(frozen.groups[doubtful], return_index=True)
        rows = doubtful[np.sort(first)[:PROBES]]
        return np.ascontiguousarray(frozen.inputs[self._task.inputs[0].name][rows], np.float32)

    def _expected(self, folder: Path) -> NDArray[np.float32]:
        """What the package's own graphs give for the probes, run here."""
        windows = {self._task.inputs[0].name: self._probes}
        outputs = evaluate_package(folder, windows, np.zeros(len(self._probes), np.int64), self._task).outputs
        return next(iter(outputs.values())).astype(np.float32)

    def _accuracy(self, folder: Path) -> Accuracy:
        """On the frozen slice; the interval draws whole recordings again, since windows of one hang together."""
        frozen = self._dataset.frozen
        correct = evaluate_package(folder, frozen.inputs, frozen.labels, self._task).correct
        low, high = interval(correct.astype(np.float64), frozen.groups)
        return Accuracy(float(correct.mean()), low, high)

    def _drained(self, windows: int) -> str | None:
        """Every window inferred, every captured sample in S3."""
        if sum(self._look.inferred(device) for device in self._devices) < windows:
            return None
        captured = sum(self._look.captured(device) for device in self._devices)
        returned = self._look.returned()["returned"]["samples"]
        return f"{captured} captured of {windows}, {returned} returned" if 0 < captured <= returned else None

    def _published(self) -> str | None:
        found = self._look.returned()["datasets"]
        if not found:
            return None
        first = found[0]
        ended = [item["status"] for item in first["executions"] if item["status"] not in ("InProgress", "Succeeded")]
        if ended:
            raise Refused(
                f"The pipeline's execution ended as {ended[0]}; the dataset is {first['stands']}.",
                f"See the builds' logs in {self._sandbox / 'logs' / 'builds'}.",
            )
        return f"dataset {first['key']}: published" if first["stands"] == "published" else None

    def _executions(self, status: dict[str, Any]) -> dict[str, int]:
        """Executions that CodePipeline ran, by the dataset they were started for."""
        return {item["key"]: len(item["executions"]) for item in status["datasets"]}

    def _stop(self) -> None:
        """End what this run started; with --keep the sandbox stays."""
        for background in reversed(self._background):
            background.stop()
        if (self._sandbox / "sandbox.json").exists() and not self._options.keep:
            self._progress.command("sandbox", "down", "--dir", self._sandbox)
