"""Deployments that are made on the device itself: from folders of recipes and artifacts, with no cloud.

Recipes are ``NAME-VERSION.yaml`` (or ``.yml``, ``.json``), artifacts lie in ``NAME/VERSION/``: the folders that the
Greengrass command lines take.
"""

from __future__ import annotations

import asyncio
import filecmp
import re
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_cloud.sandbox.device.cloud_link import ComponentUpdate, Job
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.mode import Limits
from hybridge_edge import durable
from hybridge_edge.contract.errors import Overloaded, Refused

SUFFIX = ".local"
PREFIX = "local-"
"""Of a local deployment's job id: no IoT job has it."""
_RECIPE = re.compile(r"(?P<name>[\w.-]+?)-(?P<version>\d+\.\d+\.\d+[\w.+-]*)\.(yaml|yml|json)")
_RECIPES = 200
_WAITING = 16
"""Local deployments that may wait; more are refused."""
_KEPT = 64
"""Ended deployments whose outcome is still known."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a local deployment's files are; None for none."""

    recipes: Path | None = None
    artifacts: Path | None = None


@dataclass(frozen=True, slots=True)
class LocalOutcome:
    """How a local deployment ended: SUCCEEDED or FAILED, and why; "" as long as it waits or runs."""

    status: str = ""
    reason: str = ""


class LocalDeployments:
    """The queue of local deployments; lives on the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[tuple[Job, Folders]] = asyncio.Queue(_WAITING)
        self._outcomes: OrderedDict[str, LocalOutcome] = OrderedDict()

    def submit(
        self, components: Mapping[str, ComponentUpdate], removed: tuple[str, ...], folders: Folders, *, rollback: bool
    ) -> str:
        """Take a deployment; its id. Raises Overloaded where too many wait."""
        deployment = str(uuid.uuid4())
        try:
            job = Job(f"{PREFIX}{deployment}", deployment, "", components, rollback, removed=removed)
            self._waiting.put_nowait((job, folders))
        except asyncio.QueueFull:
            raise Overloaded(f"{_WAITING} local deployments wait already.", "Wait for them.") from None
        self.ended(deployment, LocalOutcome())
        return deployment

    async def next(self) -> tuple[Job, Folders]:
        return await self._waiting.get()

    def ended(self, deployment: str, outcome: LocalOutcome) -> None:
        self._outcomes[deployment] = outcome
        while len(self._outcomes) > _KEPT:
            self._outcomes.popitem(last=False)

    def outcome(self, deployment: str) -> LocalOutcome | None:
        """How it went; None for a deployment that nobody knows."""
        return self._outcomes.get(deployment)


def read_request(request: Mapping[str, Any]) -> tuple[dict[str, ComponentUpdate], tuple[str, ...], Folders, bool]:
    """A CreateLocalDeployment request. Raises TypeError, ValueError or AttributeError where it is none."""
    wanted = dict(request.get("rootComponentVersionsToAdd") or {})
    changes = dict(request.get("componentToConfiguration") or {})
    components = {}
    for name, version in wanted.items():
        change = changes.get(name) or {}
        reset = tuple(str(item) for item in change.get("RESET") or ())
        components[str(name)] = ComponentUpdate(str(version), change.get("MERGE"), reset)
    removed = tuple(str(name) for name in request.get("rootComponentsToRemove") or ())
    folders = Folders(*(_folder(request.get(key)) for key in ("recipeDirectoryPath", "artifactsDirectoryPath")))
    return components, removed, folders, request.get("failureHandlingPolicy", "ROLLBACK") != "DO_NOTHING"


def _folder(path: object) -> Path | None:
    return Path(str(path)) if path else None


def bring(folders: Folders, layout: Layout, limits: Limits) -> None:
    """Copy a local deployment's files to their places, as they are. Blocks.

    Raises:
        Refused: a folder is not there, or holds too much.
    """
    if folders.recipes is None:
        return
    if not folders.recipes.is_dir():
        raise Refused(f"There is no folder {folders.recipes}.", "Name a folder of recipes.")
    found = [(match, path) for path in sorted(folders.recipes.iterdir()) if (match := _RECIPE.fullmatch(path.name))]
    if len(found) > _RECIPES:
        raise Refused(f"{folders.recipes} holds more than {_RECIPES} recipes.", "Name a smaller folder.")
    left = limits.artifact_bytes
    for match, path in found:
        name, version = match["name"], match["version"]
        if folders.artifacts is not None and (source := folders.artifacts / name / version).is_dir():
            left -= sum(file.stat().st_size for file in source.rglob("*") if file.is_file())
            if left < 0:
                raise Refused(f"{folders.artifacts} holds too many bytes.", "Make it smaller.")
            _copy(source, layout.artifacts(name, version))
        durable.write(layout.recipes / f"{name}-{version}{SUFFIX}", path.read_bytes(), 0o644)


def _copy(source: Path, target: Path) -> None:
    if target.is_dir() and _same(filecmp.dircmp(source, target, ignore=[])):
        return
    work = target.with_name(f".{target.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, work)
    if target.exists():
        shutil.rmtree(target)
    durable.rename(work, target)


def _same(found: filecmp.dircmp[str]) -> bool:
    if found.left_only or found.right_only or found.funny_files:
        return False
    _, different, unread = filecmp.cmpfiles(found.left, found.right, found.common_files, shallow=False)
    return not different and not unread and all(_same(inner) for inner in found.subdirs.values())


def recipes(layout: Layout) -> dict[tuple[str, str], bytes]:
    """The recipes that local deployments brought, by name and version."""
    found = {}
    for path in layout.recipes.glob(f"*{SUFFIX}"):
        match = _RECIPE.fullmatch(path.name.removesuffix(SUFFIX) + ".yaml")
        if match is not None:
            found[match["name"], match["version"]] = path.read_bytes()
    return found
