"""What one run of the demo showed: ``report.json``, and the table at its end."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from hybridge_cloud.demo.answers import Proof
from hybridge_cloud.demo.chaos import Chaos
from hybridge_cloud.demo.rollouts import Told
from hybridge_edge.contract.errors import Refused

REPORT_FORMAT = 1
STATEMENT = (
    "The people retrained on are the people measured, later in the same recordings; labels are the recordings' own "
    "annotations, joined by sample id. The frozen slice, the last 40 % of each recording, was never sent by a device."
)
_LIBRARIES = ("torch", "onnxruntime", "onnx", "grpcio", "numpy", "awsiotsdk", "boto3", "paho-mqtt")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Accuracy on the frozen slice with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


@dataclass(frozen=True, slots=True)
class Samples:
    """What became of the samples.

    Attributes:
        replayed: windows published over MQTT. captured: samples fsynced on the devices.
        returned: distinct samples in committed batches. duplicated: rows in S3 beyond those.
    """

    replayed: int
    captured: int
    returned: int
    duplicated: int

    @property
    def lost(self) -> int:
        return self.captured - self.returned


@dataclass(frozen=True, slots=True)
class Summary:
    """One run of the demo."""

    split: int
    fleet: str
    devices: tuple[str, ...]
    before: Accuracy
    after: Accuracy
    frozen_windows: int
    samples: Samples
    proofs: tuple[Proof, ...]
    executions: dict[str, int]
    rollouts: tuple[Told, ...]
    chaos: Chaos | None
    seconds: dict[str, float]
    load_rate: float

    @property
    def requests(self) -> int:
        return sum(proof.requests for proof in self.proofs)

    @property
    def failed_requests(self) -> int:
        return sum(proof.failed for proof in self.proofs)

    @property
    def answers(self) -> dict[str, int]:
        totals: dict[str, int] = {}
        for proof in self.proofs:
            for name, count in proof.proven.items():
                totals[name] = totals.get(name, 0) + count
        return totals

    def to_json(self) -> dict[str, object]:
        return {
            "format": REPORT_FORMAT,
            "split": self.split,
            "fleet": self.fleet,
            "devices": list(self.devices),
            "accuracy": {
                "before": self.before.to_json(),
                "after": self.after.to_json(),
                "windows": self.frozen_windows,
                "statement": STATEMENT,
            },
            "requests": self.requests,
            "failed_requests": self.failed_requests,
            "requests_per_second_and_device": self.load_rate,
            "answers_by_proven_version": self.answers,
            "answers_of_several_versions": sum(proof.either for proof in self.proofs),
            "answers_of_no_version": sum(proof.unknown for proof in self.proofs),
            "answers_mislabelled": sum(proof.mislabelled for proof in self.proofs),
            "last_proven_version": {proof.device: proof.last for proof in self.proofs},
            "rollouts": [told.to_json() for told in self.rollouts],
            "chaos": self.chaos.death.to_json() if self.chaos is not None and self.chaos.death is not None else None,
            "replayed": self.samples.replayed,
            "captured": self.samples.captured,
            "returned": self.samples.returned,
            "lost": self.samples.lost,
            "duplicated": self.samples.duplicated,
            "executions_per_dataset": self.executions,
            "seconds": self.seconds,
            "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "system": platform.system()},
            "versions": {name: version(name) for name in ("hybridge", *_LIBRARIES)}
            | {"python": platform.python_version()},
        }

    def write(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.to_json(), indent=2) + "\n")
        temporary.replace(path)

    def check(self, wanted_version: str) -> None:
        """Raise Refused with every promise of the loop that this run broke."""
        broken = []
        death = self.chaos.death if self.chaos is not None else None
        failed = sum(proof.failed for proof in self.proofs if death is None or not death.tolerates(proof.device))
        if failed:
            broken.append(f"{failed} of {self.requests} requests failed")
        if self.chaos is not None and death is None:
            broken.append(f"seed {self.chaos.seed} killed nobody")
        if self.samples.lost or self.samples.duplicated:
            broken.append(f"{self.samples.lost} samples lost, {self.samples.duplicated} duplicated")
        if self.samples.captured == 0:
            broken.append("no sample was captured")
        if any(count != 1 for count in self.executions.values()) or not self.executions:
            broken.append(f"executions per dataset: {self.executions}")
        for proof in self.proofs:
            if wanted_version not in proof.last.split(" = ") or proof.unknown or proof.mislabelled:
                broken.append(
                    f"{proof.device} ends on {proof.last or 'no version'}, {proof.unknown} answers of no version, "
                    f"{proof.mislabelled} mislabelled"
                )
        for told in self.rollouts:
            if told.kind == "good" and (told.status != "SUCCEEDED" or set(told.reached) != set(self.devices)):
                broken.append(f"the good rollout ended as {told.status} on {len(told.reached)} devices")
            if told.kind != "good" and (told.status != "PUT_BACK" or told.rings != 1):
                broken.append(f"the {told.kind} rollout ended as {told.status} after {told.rings} rings")
        if self.after.value <= self.before.value:
            broken.append(f"accuracy went from {self.before.value:.3f} to {self.after.value:.3f}")
        if broken:
            raise Refused("The loop turned, but not right: " + "; ".join(broken) + ".", "report.json has the figures.")

    def table(self) -> Table:
        """The table a person reads."""
        table = Table(title="One turn of the loop", show_header=False)
        table.add_column("what", style="bold")
        table.add_column("figure")
        before, after, samples = self.before, self.after, self.samples
        rows = [
            (
                "accuracy before",
                f"{before.value:.3f}  ({before.low:.3f} to {before.high:.3f}) on {self.frozen_windows} frozen windows",
            ),
            ("accuracy after", f"{after.value:.3f}  ({after.low:.3f} to {after.high:.3f})"),
            ("devices", ", ".join(self.devices)),
            ("requests", f"{self.requests}, {self.failed_requests} failed"),
            ("answers proven", ", ".join(f"{count} of {name}" for name, count in sorted(self.answers.items()))),
            ("windows replayed", str(self.samples.replayed)),
            (
                "samples",
                f"{samples.captured} captured, {samples.returned} returned, {samples.lost} lost, "
                f"{samples.duplicated} duplicated",
            ),
            ("executions per dataset", ", ".join(f"{name}: {count}" for name, count in self.executions.items())),
            *((f"rollout of {told.version}", told.sentence) for told in self.rollouts),
            *((("chaos", self.chaos.sentence.strip()),) if self.chaos is not None else ()),
            ("seconds", f"{sum(self.seconds.values()):.0f} in all"),
        ]
        for name, figure in rows:
            table.add_row(name, figure)
        return table
