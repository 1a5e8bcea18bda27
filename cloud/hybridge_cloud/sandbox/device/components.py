"""The components of a device: started in the order of their dependencies, replaced by deployments, judged, stopped."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_cloud.sandbox.device import failpoint
from hybridge_cloud.sandbox.device.environment import component_environment
from hybridge_cloud.sandbox.device.graph import start_order
from hybridge_cloud.sandbox.device.interpolate import Cut, Scope, cut_script, interpolate
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.lifecycle import Command, Component, Plan, Presence, Status, Surroundings
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.processes import Ledger
from hybridge_cloud.sandbox.device.recipe import Recipe, Step, parse
from hybridge_cloud.sandbox.device.state import Deployed, Placed, StateFile
from hybridge_cloud.sandbox.device.token_exchange import Tokens
from hybridge_edge.contract.errors import InvalidDocument, Refused

GOOD = (Status.RUNNING, Status.FINISHED)


@dataclass(frozen=True, slots=True)
class Device:
    """What a device is to its components: its name, places, kind of nucleus, and addresses."""

    thing: str
    mode: Mode
    limits: Limits
    layout: Layout
    socket: Path
    credentials: str
    """The token exchange service's URI."""
    ca: str
    """The root certificate of the account's MQTT endpoint, "" for none."""


class Components:
    """All components of one device.

    Args:
        changed: called at each change of any component's state.
    """

    def __init__(self, device: Device, state: StateFile, tokens: Tokens, ledger: Ledger, changed: Callable[[], None]):
        self._device = device
        self._state = state
        self._tokens = tokens
        self._running: dict[str, Component] = {}
        self._news = asyncio.Event()
        self._changed = changed
        self._around = Surroundings(
            device.mode, device.limits, ledger, {}, asyncio.Lock(), self._notice, self._mark_installed
        )

    def status(self, name: str) -> tuple[Status, str]:
        """The state of one component and why it is not well, "" where it is; NEW where nothing of it was started."""
        component = self._running.get(name)
        if component is None:
            return Status.NEW, ""
        return component.status, component.reason if component.status in (Status.ERRORED, Status.BROKEN) else ""

    def report(self, name: str, status: str) -> None:
        """A component's own word about its state."""
        if name in self._running:
            self._running[name].report(status)

    def restart(self, name: str) -> bool:
        """Start a component again; whether it was there and running."""
        return name in self._running and self._running[name].restart()

    def recipe(self, name: str, version: str) -> Recipe:
        """The recipe of a deployed component, from the device's own disk."""
        path = self._device.layout.recipes / f"{name}-{version}.recipe"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            raise InvalidDocument(f"The recipe of {name} {version} is gone from the device.", "Deploy again.") from None
        return parse(text, self._device.mode, self._device.limits, local=True)  # its files are here already

    def plans(self, deployed: Deployed) -> dict[str, Plan]:
        """How each component of a set would run. Raises Refused where one cannot be run as its nucleus would."""
        recipes = {name: self.recipe(name, placed.version) for name, placed in deployed.components.items()}
        plans = {name: self._plan(name, recipes, deployed.components) for name in recipes}
        _order(plans)
        return plans

    async def start(self, deployed: Deployed) -> None:
        """Start every component of the set that is not there yet, in the order of dependencies."""
        plans = self.plans(deployed)
        order = _order(plans)
        for name in order:
            if name not in self._running:
                self._around.presences.setdefault(name, Presence())
        for name in order:
            if name not in self._running:
                self._running[name] = component = Component(plans[name], self._around)
                component.start()
                failpoint.reach("component.started")
        self._notice()

    async def stop(self, names: set[str], *, gone: set[str]) -> None:
        """Stop components, dependents first; those ``gone`` leave the device."""
        for name in reversed(_order({name: item.plan for name, item in self._running.items()})):
            if name in names | gone:
                await self._running.pop(name).stop()
        for name in gone:
            presence = self._around.presences.pop(name, None)
            if presence is not None:
                presence.up.set()  # whoever still waits for it waits for nothing
        self._notice()

    async def stop_all(self) -> None:
        await self.stop(set(self._running), gone=set())

    async def judge(self) -> str:
        """Wait until all are RUNNING or FINISHED; "" then, else why the set is not well."""
        limits = self._device.limits
        installs = [item.plan.install_within for item in self._running.values() if "install" in item.plan.steps]
        longest = sum(limits.strikes * (within or limits.install_within) for within in installs)
        deadline = time.monotonic() + longest + limits.running_within
        while True:
            self._news.clear()
            for name, item in sorted(self._running.items()):
                if item.status is Status.BROKEN:
                    return f"{name} is BROKEN: {item.reason}"
            late = sorted(name for name, item in self._running.items() if item.status not in GOOD)
            if not late:
                return ""
            left = deadline - time.monotonic()
            if left <= 0:
                return f"{', '.join(late)} did not start in time"
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                continue

    def _plan(self, name: str, recipes: Mapping[str, Recipe], placed: Mapping[str, Placed]) -> Plan:
        device, recipe = self._device, recipes[name]
        scope = self._scope(name, placed[name])
        direct = {
            item.name: self._scope(item.name, placed[item.name]) for item in recipe.dependencies if item.name in placed
        }
        work = device.layout.work(name)
        base = component_environment(
            recipe,
            device.mode,
            device.limits,
            thing=device.thing,
            socket=device.socket,
            token=self._tokens.token(name),
            credentials=device.credentials,
            work=work,
            ca=device.ca,
        )

        def replaced(text: str) -> str:
            return interpolate(text, scope, device.mode, direct)

        def command(step: Step) -> Command:
            if step.privileged and os.geteuid() != 0:
                raise Refused(
                    f"{name}: a step requires privilege, and the local core device runs as you.",
                    "Write steps that need no root, or test this one on a real core.",
                )
            variables = (*recipe.environment, *step.environment)
            try:
                own = {key: replaced(value) for key, value in variables}
                return Command(replaced(step.script), {**base, **own}, step.timeout, replaced(step.skip_if))
            except Cut:
                if not device.limits.execute_cut:
                    raise
                return Command(cut_script(variables, step.script, scope), base, step.timeout)

        return Plan(
            name,
            recipe.version,
            {key: command(step) for key, step in recipe.steps.items()},
            tuple(item.name for item in recipe.dependencies if item.kind == "HARD" and item.name in placed),
            tuple(item.name for item in recipe.dependencies if item.kind == "SOFT" and item.name in placed),
            placed[name].installed,
            work,
            device.layout.log(name),
        )

    def _scope(self, name: str, placed: Placed) -> Scope:
        layout = self._device.layout
        return Scope(
            name,
            layout.artifacts(name, placed.version),
            layout.unarchived(name, placed.version),
            layout.work(name),
            layout.root,
            self._device.thing,
            placed.configuration,
        )

    def _notice(self) -> None:
        self._news.set()
        self._changed()

    async def _mark_installed(self, name: str) -> None:
        self._state.place(name, replace(self._state.state.current.components[name], installed=True))
        failpoint.reach("component.installed")


def _order(plans: Mapping[str, Plan]) -> list[str]:
    return start_order({name: (*plan.hard, *plan.soft) for name, plan in plans.items()})
