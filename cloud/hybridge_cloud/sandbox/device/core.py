"""A whole core device: its parts wired together, started and stopped in order."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hybridge_cloud.sandbox.device.administration import Administration
from hybridge_cloud.sandbox.device.agreement import Agreements
from hybridge_cloud.sandbox.device.cloud_link import Cloud, CloudLink, NoCloud
from hybridge_cloud.sandbox.device.components import Components, Device
from hybridge_cloud.sandbox.device.configuration import Tree, put
from hybridge_cloud.sandbox.device.deployment import Deployments
from hybridge_cloud.sandbox.device.health import Health
from hybridge_cloud.sandbox.device.ipc import IpcServer
from hybridge_cloud.sandbox.device.jobs_link import JobsLink
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.mode import Limits, Mode
from hybridge_cloud.sandbox.device.mqtt_link import Broker, MqttLink
from hybridge_cloud.sandbox.device.operations import Configurations, Operations
from hybridge_cloud.sandbox.device.processes import Ledger, stop_orphans
from hybridge_cloud.sandbox.device.state import StateFile
from hybridge_cloud.sandbox.device.token_exchange import TokenExchange, Tokens
from hybridge_edge.contract.errors import Conflict, HybridgeError, Unavailable

ORPHANS_WITHIN = 10.0
"""Seconds from SIGTERM to SIGKILL for what an earlier life of the device left running."""
_log = logging.getLogger(__name__)


class CoreDevice:
    """One device with one root; the root's lock is held from here to the end of the process or ``close``.

    Args:
        endpoint: the URL of the account's Greengrass, "" for a device that takes local deployments only.

    Raises:
        Conflict: another process runs this root. InvalidDocument: its state cannot be read.
    """

    def __init__(self, root: Path, thing: str, mode: Mode, limits: Limits, endpoint: str) -> None:
        layout = Layout(root, limits.socket_name)
        layout.prepare()
        self._lock = _hold(layout.lock)
        socket = layout.socket()
        self._ledger = Ledger(layout.processes)
        orphans = stop_orphans(self._ledger, socket, ORPHANS_WITHIN)
        if orphans:
            _log.warning("Stopped %d processes that an earlier life left running", len(orphans))
        self._tokens = Tokens()
        self._exchange = TokenExchange(lambda token: self._tokens.component(token) is not None, thing)
        broker = Broker.read(layout.mqtt)
        self.device = Device(
            thing, mode, limits, layout, socket, self._exchange.uri, "" if broker is None else broker.ca
        )
        self._state = StateFile(layout.state)
        self._jobs = JobsLink(CloudLink(endpoint, thing), thing) if endpoint and broker is not None else None
        self._cloud: Cloud = self._jobs or (CloudLink(endpoint, thing) if endpoint else NoCloud())
        self._health = Health(self.device, self._state, self._cloud, lambda: self.components)
        self.components = Components(self.device, self._state, self._tokens, self._ledger, self._health.changed)
        agreements = Agreements(limits)
        self._deployments = Deployments(
            self.device, self._state, self._cloud, self.components, agreements, self._configured, self._health.deployed
        )
        self.local = self._deployments.local
        self._operations = Operations(
            self.components,
            Configurations(self._read, self._update),
            Administration(mode, self.components, self._read, self.local, agreements),
        )
        self._ipc = IpcServer(socket, limits, self._tokens.component, self._operations)
        self._broker = broker
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = asyncio.Event()
        """Set once the device serves components and takes deployments."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then end everything in order."""
        try:
            await self._start()
            waiting = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([waiting, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {waiting}:
                task.result()  # a part that ends by itself has failed: say with what
        finally:
            await self._stop()

    async def _start(self) -> None:
        self._exchange.start()
        await self._ipc.start()
        if self._broker is not None:
            loop = asyncio.get_running_loop()

            def deliver(topic: str, payload: bytes) -> None:
                if self._jobs is not None:
                    self._jobs.arrived(topic, payload)
                loop.call_soon_threadsafe(self._operations.arrived, topic, payload)

            self._operations.mqtt = MqttLink(self._broker, self.device.thing, deliver)
            self._operations.mqtt.start()
            link = self._operations.mqtt
            if self._jobs is not None:
                self._jobs.link = link
            self._health.publish = lambda topic, payload: link.publish(topic, payload, 1)
        try:
            await self.components.start(self._state.state.current)
        except HybridgeError as error:
            # The device stays up for the deployment that repairs it.
            _log.error("The deployed components cannot start: %s", error)
        self._health.changed()
        self.ready.set()
        self._tasks = [asyncio.create_task(self._deployments.run()), asyncio.create_task(self._health.run())]

    async def _stop(self) -> None:
        self._cloud.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.components.stop_all()
        if self._operations.mqtt is not None:
            self._operations.mqtt.close()
        await self._ipc.close()
        self._exchange.close()
        os.close(self._lock)

    def _configured(self, component: str, before: Tree, after: Tree) -> None:
        self._operations.configured(component, before, after)

    def read_configuration(self, component: str) -> Tree | None:
        """A component's configuration, None where it is not on the device."""
        return self._read(component)

    def installed(self) -> Mapping[str, str]:
        """Component to version, of all that are on the device."""
        return {name: placed.version for name, placed in self._state.state.current.components.items()}

    def environment(self, component: str) -> dict[str, str]:
        """The variables by which a process is a component to this device."""
        token = self._tokens.token(component)
        return {
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.device.socket),
            "SVCUID": token,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": token,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": self.device.credentials,
            "AWS_IOT_THING_NAME": self.device.thing,
        }

    def _read(self, component: str) -> Tree | None:
        placed = self._state.state.current.components.get(component)
        return None if placed is None else placed.configuration

    def _update(self, component: str, path: tuple[str, ...], value: Any) -> None:
        placed = self._state.state.current.components.get(component)
        if placed is None:
            raise Unavailable(f"{component} is leaving the device.")
        tree = put(placed.configuration, path, value)
        self._state.place(component, replace(placed, configuration=tree))
        self._operations.configured(component, placed.configuration, tree)


def _hold(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Conflict(f"A core device already runs in {path.parent}.", "Stop it first.") from None
    return descriptor
