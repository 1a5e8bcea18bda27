"""The life of one component: its states, its steps run as processes, three strikes, and an orderly end.

NEW -> (install) -> INSTALLED -> STARTING -> RUNNING -> FINISHED       exit 0 (of startup: it stays RUNNING)
                                     ^           |
                                     +- ERRORED -+-> BROKEN            three failures within the hour
any -> STOPPING -> the end
"""

from __future__ import annotations

import asyncio
import enum
import logging
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_cloud.sandbox.device import notify
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.processes import Ledger, Process, end_marked, launch
from hybridge_edge.contract.errors import HybridgeError

_log = logging.getLogger(__name__)


class Status(enum.StrEnum):
    """In the words of the fleet status service."""

    NEW = "NEW"
    INSTALLED = "INSTALLED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    ERRORED = "ERRORED"
    BROKEN = "BROKEN"
    FINISHED = "FINISHED"
    STOPPING = "STOPPING"


@dataclass(frozen=True, slots=True)
class Command:
    """One lifecycle step, ready to run: variables replaced, the whole environment known."""

    script: str
    environment: Mapping[str, str]
    timeout: float | None = None
    skip_if: str = ""
    """Classic's Skipif: ``onpath PROGRAM`` or ``exists PATH``."""

    @property
    def skipped(self) -> bool:
        kind, _, what = self.skip_if.partition(" ")
        if kind == "onpath":
            return shutil.which(what.strip(), path=self.environment.get("PATH")) is not None
        return kind == "exists" and Path(what.strip()).exists()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one component's life needs."""

    name: str
    version: str
    steps: Mapping[str, Command]
    hard: tuple[str, ...]
    soft: tuple[str, ...]
    installed: bool
    folder: Path
    log: Path

    @property
    def token(self) -> str:
        """The secret that all its processes have in their environment."""
        return next((step.environment.get("SVCUID", "") for step in self.steps.values()), "")

    @property
    def install_within(self) -> float | None:
        step = self.steps.get("install")
        return None if step is None or self.installed else step.timeout


class Presence:
    """Whether a component counts for those that depend on it: its process runs, or it finished.

    It belongs to a name, not to a version: it stays when a deployment replaces the component.
    """

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.set(False)

    def set(self, up: bool) -> None:
        (self.up if up else self.down).set()
        (self.down if up else self.up).clear()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all components of a device share.

    Args:
        presences: of each component on the device, by name.
        installing: held while an `install` step runs, so that one runs at a time.
        changed: called at each change of a component's state.
        installed: awaited once a component's `install` succeeded.
    """

    mode: Mode
    limits: Limits
    ledger: Ledger
    presences: dict[str, Presence]
    installing: asyncio.Lock
    changed: Callable[[], None]
    installed: Callable[[str], Awaitable[None]]


class Component:
    """A component from its start to its stop; afterwards a new one takes its place."""

    def __init__(self, plan: Plan, surroundings: Surroundings) -> None:
        self.plan = plan
        self.status = Status.NEW
        self.reason = ""
        self._around = surroundings
        self._presence = surroundings.presences.setdefault(plan.name, Presence())
        self._failures: deque[float] = deque(maxlen=surroundings.limits.strikes)
        self._process: Process | None = None
        self._left: Process | None = None
        """A `startup` step that succeeded, whose children may live."""
        self._restart = asyncio.Event()
        self._asked = False
        self._life: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._life = asyncio.create_task(self._live(), name=f"component {self.plan.name}")

    async def stop(self) -> None:
        """End its process, SIGTERM first; returns when nothing of it runs."""
        life, self._life = self._life, None
        if life is None:
            return
        self._set(Status.STOPPING)
        self._presence.set(False)
        # The life is cancelled first, so that it takes the end of the process for no failure.
        life.cancel()
        await asyncio.wait([life])
        shutdown = self.plan.steps.get("shutdown")
        if shutdown is not None and self._around.mode is Mode.CLASSIC:
            await self._step("shutdown", shutdown, self._around.limits.shutdown_within)
        if self._process is not None:
            await self._process.stop(self._around.limits.stop_within)
        self._process = None
        await self._sweep(self._around.limits.stop_within if "startup" in self.plan.steps else 0.0)

    def restart(self) -> bool:
        """Start it again, as somebody asked; whether there was anything to start again."""
        if self.status not in (Status.STARTING, Status.RUNNING):
            return False
        self._asked = True
        self._restart.set()
        return True

    def report(self, status: str) -> None:
        """The component's own word (UpdateState): classic follows it, lite takes note and does nothing."""
        if self._around.mode is Mode.LITE or self._process is None:
            return
        if status == Status.RUNNING and self.status is Status.STARTING:
            self._set(Status.RUNNING)
        elif status == Status.ERRORED:
            self.reason = "it reported ERRORED"
            self._restart.set()

    async def _live(self) -> None:
        try:
            if not self.plan.installed and not await self._install():
                return
            self._set(Status.INSTALLED)
            while await self._serve():
                pass
        except (OSError, HybridgeError) as error:
            _log.exception("%s cannot run", self.plan.name)
            self._break(f"the core device cannot run it: {error}")

    async def _install(self) -> bool:
        step = self.plan.steps.get("install")
        if step is not None and not step.skipped:
            within = step.timeout or self._around.limits.install_within
            async with self._around.installing:
                for left in reversed(range(self._around.limits.strikes)):
                    if await self._step("install", step, within):
                        break
                    self._set(Status.ERRORED)
                    if not left:
                        self._break(f"install failed {self._around.limits.strikes} times: {self.reason}")
                        return False
        await self._around.installed(self.plan.name)
        return True

    async def _serve(self) -> bool:
        """One life of `run`; whether there is to be another."""
        for name in (*self.plan.hard, *self.plan.soft):
            presence = self._around.presences.get(name)
            if presence is not None:
                await presence.up.wait()
        startup = self.plan.steps.get("startup")
        if startup is not None and not startup.skipped:
            return await self._start_up(startup)
        run = self.plan.steps.get("run")
        if run is None or run.skipped:
            self._set(Status.FINISHED)
            self._presence.set(True)
            return False
        return await self._run(run)

    async def _start_up(self, step: Command) -> bool:
        """One life of a component whose `startup` leaves something running; whether there is to be another."""
        limits = self._around.limits
        self._restart.clear()
        self._set(Status.STARTING)
        within = step.timeout or limits.install_within
        if self._around.mode is Mode.LITE:
            async with notify.listening() as ready:
                environment = {**step.environment, notify.VARIABLE: ready.address}
                told = replace(step, script=step.script + notify.LAST_LINE, environment=environment)
                good = await self._step("startup", told, within, leaves=True)
            if good and not ready.said:
                self.reason, good = "startup ended without systemd-notify --ready", False
        else:
            good = await self._step("startup", step, within, leaves=True)
        if not good:
            await self._sweep(limits.stop_within)
            return await self._failed()
        self._set(Status.RUNNING)
        self._presence.set(True)
        await self._interruption()
        self._presence.set(False)
        await self._sweep(limits.stop_within)
        return await self._again()

    async def _again(self) -> bool:
        """After an interruption: a failure that the component reported, or nothing that counts against it."""
        if self._restart.is_set() and not self._asked:
            return await self._failed()
        self._asked = False
        self._set(Status.INSTALLED)
        return True

    async def _run(self, step: Command) -> bool:
        self._restart.clear()
        self._set(Status.STARTING)
        self._process = process = await self._launch("run", step)
        self._presence.set(True)
        timer = asyncio.get_running_loop().call_later(self._around.limits.running_after, self._is_running)
        ended = asyncio.create_task(process.wait())
        interrupted = asyncio.create_task(self._interruption())
        try:
            await asyncio.wait([ended, interrupted], return_when=asyncio.FIRST_COMPLETED)
        finally:
            interrupted.cancel()
            timer.cancel()
        if not ended.done():
            self._presence.set(False)
            await process.stop(self._around.limits.stop_within)
            self._process = None
            return await self._again()
        self._process = None
        await self._sweep()
        code = ended.result()
        if code == 0:
            self._set(Status.FINISHED)
            return False
        self._presence.set(False)
        self.reason = f"run ended with {_ending(code)}"
        return await self._failed()

    async def _interruption(self) -> None:
        """Return when a HARD dependency stops, or when the component asked to be started again."""
        presences = (self._around.presences.get(name) for name in self.plan.hard)
        events = [self._restart, *(presence.down for presence in presences if presence is not None)]
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _failed(self) -> bool:
        limits = self._around.limits
        self._restart.clear()
        self._set(Status.ERRORED)
        _log.warning("%s: %s", self.plan.name, self.reason)
        now = time.monotonic()
        self._failures.append(now)
        if len(self._failures) == limits.strikes and now - self._failures[0] < limits.strike_window:
            self._break(f"{limits.strikes} failures: {self.reason}")
            return False
        recover = self.plan.steps.get("recover")
        if recover is not None:
            await self._step("recover", recover, recover.timeout or limits.install_within)
        await asyncio.sleep(limits.restart_after)
        return True

    async def _step(self, name: str, step: Command, within: float, *, leaves: bool = False) -> bool:
        """Run a step to its end; whether it succeeded in time."""
        process = await self._launch(name, step, leaves=leaves)
        try:
            code = await asyncio.wait_for(process.wait(), within)
        except TimeoutError:
            await process.stop(self._around.limits.stop_within)
            self.reason = f"{name} ran longer than its Timeout of {within:g} s"
            return False
        except asyncio.CancelledError:
            await process.stop(self._around.limits.stop_within)
            raise
        if leaves and code == 0:
            self._left = process
        if code != 0:
            self.reason = f"{name} ended with {_ending(code)}"
        return code == 0

    async def _launch(self, name: str, step: Command, *, leaves: bool = False) -> Process:
        _log.info("%s %s: %s", self.plan.name, self.plan.version, name)
        limits = self._around.limits
        return await launch(
            step.script,
            self.plan.folder,
            step.environment,
            self.plan.log,
            limits.log_bytes,
            self._around.ledger,
            leaves=leaves,
        )

    async def _sweep(self, within: float = 0.0) -> None:
        """End what left the process group, as a nucleus does by its control group; SIGTERM first if ``within``."""
        if self.plan.token:
            await asyncio.to_thread(end_marked, "SVCUID", self.plan.token, within)
        left, self._left = self._left, None
        if left is not None:
            await left.drained()

    def _is_running(self) -> None:
        if self.status is Status.STARTING:
            self._set(Status.RUNNING)

    def _break(self, reason: str) -> None:
        self.reason = reason
        self._set(Status.BROKEN)

    def _set(self, status: Status) -> None:
        if status is not self.status:
            self.status = status
            self._around.changed()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
