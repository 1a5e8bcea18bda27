"""What is deployed on a core device, in one file that is replaced whole.

A deployment takes effect in the rename of this file: after a kill at any moment the device starts from exactly the old
set of components or exactly the new one, each with its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hybridge_cloud.sandbox.device.configuration import Tree
from hybridge_edge import durable
from hybridge_edge.contract.errors import InvalidDocument

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """One component of the deployed set."""

    version: str
    configuration: Tree
    root: bool
    """Named by a deployment, rather than only needed by another component."""
    targets: tuple[str, ...]
    """The configuration ARNs of the deployments that want it."""
    installed: bool = False
    """Whether `install` succeeded for this version and configuration."""


@dataclass(frozen=True, slots=True)
class Target:
    """The latest deployment of one target (``thinggroup/NAME`` or ``thing/NAME``)."""

    deployment: str
    arn: str
    roots: Mapping[str, str]
    """Component name to version."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """All components of the device, and what asked for them."""

    components: Mapping[str, Placed] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """The final word on a job, kept until the cloud has it."""

    job: str
    status: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class State:
    current: Deployed = field(default_factory=Deployed)
    previous: Deployed | None = None
    """What ran before the deployment in progress; None when none is, or when nothing would be restored."""
    job: str = ""
    """The job whose set is current but not judged yet."""
    report: Report | None = None
    sequence: int = 0
    """Of fleet status messages."""


class StateFile:
    """The state in memory and on disk, changed together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = _read(path)

    def save(self, state: State) -> None:
        """Replace the state, on disk first."""
        if state != self.state:
            durable.write(self._path, json.dumps(_document(state), sort_keys=True).encode())
            self.state = state

    def place(self, name: str, placed: Placed) -> None:
        """Replace one component of the current set."""
        current = self.state.current
        components = {**current.components, name: placed}
        self.save(replace(self.state, current=replace(current, components=components)))

    def next_sequence(self) -> int:
        """The next number of a fleet status message; unique over restarts."""
        self.save(replace(self.state, sequence=self.state.sequence + 1))
        return self.state.sequence


def _document(state: State) -> dict[str, Any]:
    report = state.report
    return {
        "format": FORMAT,
        "current": _deployed_document(state.current),
        "previous": None if state.previous is None else _deployed_document(state.previous),
        "job": state.job,
        "report": report and {"job": report.job, "status": report.status, "details": dict(report.details)},
        "sequence": state.sequence,
    }


def _deployed_document(deployed: Deployed) -> dict[str, Any]:
    return {
        "components": {
            name: {
                "version": placed.version,
                "configuration": placed.configuration,
                "root": placed.root,
                "targets": list(placed.targets),
                "installed": placed.installed,
            }
            for name, placed in deployed.components.items()
        },
        "targets": {
            name: {"deployment": target.deployment, "arn": target.arn, "roots": dict(target.roots)}
            for name, target in deployed.targets.items()
        },
    }


def _read(path: Path) -> State:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return State()
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT:
            raise InvalidDocument(
                f"{path} has format {fields['format']}, not {FORMAT}.", "Use the release that wrote it."
            )
        report = fields["report"]
        return State(
            _deployed(fields["current"]),
            None if fields["previous"] is None else _deployed(fields["previous"]),
            fields["job"],
            None if report is None else Report(report["job"], report["status"], report["details"]),
            fields["sequence"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidDocument(
            f"{path} is not a core device's state ({error}).", "Remove the device and add it again."
        ) from None


def _deployed(fields: Mapping[str, Any]) -> Deployed:
    return Deployed(
        {
            name: Placed(
                item["version"], item["configuration"], item["root"], tuple(item["targets"]), item["installed"]
            )
            for name, item in fields["components"].items()
        },
        {name: Target(item["deployment"], item["arn"], item["roots"]) for name, item in fields["targets"].items()},
    )
