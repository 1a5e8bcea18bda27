"""The second half of the story: version 2 goes ring by ring; two bad models are stopped in ring 0 and put back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_cloud.demo.stage import FLEET, SECOND, Stage
from hybridge_edge.contract.errors import Refused

LIMITS = """\
# How the demo rolls out: everything as by default, only quicker.
bake_seconds: 4          # a wave is watched this long before it may pass
minimum_requests: 100    # per wave
deadline_seconds: 180    # per wave
"""
SABOTAGE_SECONDS = 120
BAD = (("shuffled", "3.0.0"), ("slow", "4.0.0"))


@dataclass(frozen=True, slots=True)
class Told:
    """One rollout as its record tells it.

    Attributes:
        kind: "good", "shuffled" or "slow". reached: devices that were handed the version. rings: waves written.
        detect_seconds: from the first hand-over's revision to the verdict; put_back_seconds: from the verdict until
            every device reached answered with the version before; both 0.0 where nothing was to be put back.
        reason: why it ended as it did.
    """

    kind: str
    version: str
    id: str
    status: str
    rings: int
    reached: tuple[str, ...]
    detect_seconds: float
    put_back_seconds: float
    reason: str

    @property
    def sentence(self) -> str:
        """What a person wants to know first."""
        where = f"{_count(self.rings, 'ring')}, {_count(len(self.reached), 'device')}"
        if self.status != "PUT_BACK":
            return f"{self.status}, {where}"
        found, back = f"found in {self.detect_seconds:.1f} s", f"back in {self.put_back_seconds:.1f} s"
        return f"{self.kind}: PUT_BACK, {where}, {found}, {back}"

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "version": self.version,
            "id": self.id,
            "status": self.status,
            "rings": self.rings,
            "devices_reached": list(self.reached),
            "seconds_to_detect": self.detect_seconds,
            "seconds_to_put_back": self.put_back_seconds,
            "reason": self.reason,
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def good(stage: Stage) -> Told:
    """Version 2, ring by ring, under load."""
    with stage.progress.hop("version 2", "ring by ring, each wave judged by what its own devices measured"):
        return roll_out(stage, "good", SECOND, wanted="SUCCEEDED")


def bad(stage: Stage) -> tuple[Told, ...]:
    """Two models that activate without complaint: one answers other classes, one takes ten times as long."""
    told = []
    for kind, version in BAD:
        with stage.progress.hop(kind, f"version {version} activates well and is {_WHAT[kind]}"):
            make(stage, kind, SECOND, version)
            stage.progress.command("publish", stage.package(version), "--fleet", FLEET)
            told.append(roll_out(stage, kind, version, wanted="PUT_BACK"))
    return tuple(told)


_WHAT = {"shuffled": "wrong: its classes are mixed up", "slow": "ten times slower"}


def roll_out(stage: Stage, kind: str, version: str, wanted: str, *, strict: bool = True) -> Told:
    """Roll a published version out and read its record.

    Args:
        wanted: how it should end. strict: whether another end is an error.

    Raises:
        Refused: it ended otherwise, and ``strict``.
    """
    limits = stage.out / "rollout.yaml"
    limits.write_text(LIMITS)
    stage.progress.command(
        "rollout", "start", f"{stage.project.name}@{version}", "--fleet", FLEET, "-f", limits, "--watch",
        fails=None if not strict else wanted != "SUCCEEDED",
    )  # fmt: skip
    shown: dict[str, Any] = json.loads(
        stage.progress.command("rollout", "show", f"{stage.project.name}@{version}", "--fleet", FLEET, "--json")
    )
    told = _told(kind, version, shown)
    stage.progress.say(f"{told.status}: {told.reason}")
    if strict and told.status != wanted:
        raise Refused(f"The rollout of {version} ended as {told.status}, not as {wanted}: {told.reason}")
    return told


def _told(kind: str, version: str, shown: dict[str, Any]) -> Told:
    plan, state = shown["plan"], shown["state"]
    written = [wave for wave in state["waves"] if wave["status"] != "PENDING"]
    begun = min((wave["written_at_ms"] for wave in written), default=0)
    devices = {wave["ring"]: wave["devices"] for wave in plan["waves"]}
    detected, back = state["detected_at_ms"], state["put_back_at_ms"]
    return Told(
        kind=kind,
        version=version,
        id=state["id"],
        status=state["status"],
        rings=len(written),
        reached=tuple(device for wave in written for device in devices[wave["ring"]]),
        detect_seconds=round((detected - begun) / 1000, 2) if detected else 0.0,
        put_back_seconds=round((back - detected) / 1000, 2) if detected and back else 0.0,
        reason=state["reason"],
    )


def make(stage: Stage, kind: str, source: str, version: str) -> Path:
    """Make a package out of another: see ``demo.sabotage`` for what is done to bad ones, on purpose."""
    out = stage.package(version)
    words = [sys.executable, "-m", "hybridge_cloud.demo.sabotage", kind, str(stage.package(source)), "--out", str(out)]
    stage.progress.say(f"$ python -m hybridge_cloud.demo.sabotage {kind} OUT/{source} --out OUT/{version}")
    done = subprocess.run(
        [*words, "--version", version, "--key", str(stage.key)],
        env=stage.progress.environment,
        capture_output=True,
        text=True,
        timeout=SABOTAGE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Refused(f"The {kind} package could not be made: {done.stderr.strip()[-500:]}")
    return out
