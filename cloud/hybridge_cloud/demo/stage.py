"""Where the demo plays: its folder, its sandbox, its devices, and what it has running."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hybridge_cloud.demo.chaos import Chaos
from hybridge_cloud.demo.observe import Observer
from hybridge_cloud.demo.progress import Background, Progress
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.task import Samples
from hybridge_edge.contract.errors import Refused

FLEET = "watches"
PIPELINE = "watch-retraining"
FIRST, SECOND = "1.0.0", "2.0.0"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for. ``chaos``: the seed of a death, None for none."""

    project: Path
    out: Path
    devices: int
    split: int
    keep: bool
    chaos: int | None = None


class Stage:
    """What every hop of one run shares. ``close`` ends whatever the run started."""

    def __init__(self, options: Options, console: Console) -> None:
        self.options = options
        self.out = options.out
        self.sandbox = options.out / "sandbox"
        self.progress = Progress(options.out, {}, console)
        self.devices = tuple(f"watch-{number}" for number in range(1, options.devices + 1))
        self.project = load_project(options.project)
        self.task = self.project.task()
        self.dataset = self.task.dataset(options.split)
        self.background: list[Background] = []
        self.pipeline = ""
        self.chaos = None if options.chaos is None else Chaos(options.chaos, self.sandbox)
        if self.chaos is not None:
            self.progress.on_hop = self.chaos.hop_begins

    @property
    def look(self) -> Observer:
        return Observer(self.sandbox, self.project.name, self.pipeline, self.progress.environment)

    @property
    def key(self) -> Path:
        return self.out / "keys" / "signing-key.pem"

    @property
    def trust(self) -> Path:
        return self.out / "keys" / "trust.json"

    @property
    def replayed(self) -> Samples:
        """The part of the data that devices see. Raises Refused where the project has none."""
        if self.dataset.replay is None:
            raise Refused("The project has no part to replay.", "Give its dataset() a part 'replay'.")
        return self.dataset.replay

    def log(self, name: str) -> Path:
        return self.out / "logs" / f"{name}.log"

    def package(self, version: str) -> Path:
        """Where the demo keeps a version's package."""
        return self.out / version

    def start(self, name: str, words: list[str]) -> Background:
        """Start a process that runs beside the story until ``close``."""
        started = Background.start(name, words, self.progress.environment, self.log(name))
        self.background.append(started)
        return started

    def close(self) -> None:
        """End what this run started; with --keep the sandbox stays."""
        if self.chaos is not None:
            self.chaos.close()
        for background in reversed(self.background):
            background.stop()
        if (self.sandbox / "sandbox.json").exists() and not self.options.keep:
            self.progress.command("sandbox", "down", "--dir", self.sandbox)
