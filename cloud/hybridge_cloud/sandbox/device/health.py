"""Fleet status: what a core device tells the cloud about its components, after each change."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from hybridge_cloud.sandbox.device.cloud_link import Cloud
from hybridge_cloud.sandbox.device.components import Components, Device
from hybridge_cloud.sandbox.device.deployment import Outcome
from hybridge_cloud.sandbox.device.environment import TOKEN_EXCHANGE
from hybridge_cloud.sandbox.device.lifecycle import Status
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_cloud.sandbox.device.recipe import architecture
from hybridge_cloud.sandbox.device.state import StateFile
from hybridge_edge.contract.errors import HybridgeError, Unavailable

_TOKEN_EXCHANGE_VERSION = "2.0.3"  # noqa: S105  a component's version
HEALTH_TOPIC = "$aws/things/{}/greengrassv2/health/json"
_RETRY_FIRST = 0.5
_log = logging.getLogger(__name__)


class Health:
    """Sends the newest status; changes that come together are told together, and only the last one is kept."""

    def __init__(self, device: Device, state: StateFile, cloud: Cloud, components: Callable[[], Components]) -> None:
        self._device = device
        self._state = state
        self._cloud = cloud
        self._components = components
        self._news = asyncio.Event()
        self._trigger = "NUCLEUS_LAUNCH"
        self._outcome: Outcome | None = None
        self.publish: Callable[[str, bytes], None] | None = None
        """How a message reaches AWS IoT Core; None where the device has no broker."""

    def changed(self) -> None:
        """A component's state changed."""
        self._news.set()

    def deployed(self, outcome: Outcome) -> None:
        """A deployment ended."""
        self._outcome = outcome
        self._trigger = outcome.trigger
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        pause = _RETRY_FIRST
        while True:
            await self._news.wait()
            await asyncio.sleep(self._device.limits.status_after)
            self._news.clear()
            try:
                await self.send()
                pause = _RETRY_FIRST
            except Unavailable:
                self._news.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._device.limits.retry_longest)
            except HybridgeError as error:
                _log.warning("The cloud does not take the fleet status: %s", error)

    async def send(self) -> None:
        """Send the status as it is now. Raises Unavailable."""
        message = self._message()
        if self.publish is not None:
            try:
                self.publish(HEALTH_TOPIC.format(self._device.thing), json.dumps(message).encode())
            except Unavailable as error:
                _log.info("%s", error)
        # The account listens on that topic, as a real one does. But its broker forgets what nobody hears, and the
        # listener may be on its way back; a real account always listens, and acknowledges nothing. So the same message
        # goes by a call as well, which is made again until it is answered. What came twice is taken once.
        await asyncio.to_thread(self._cloud.report_health, message)
        self._trigger = "COMPONENT_STATUS_CHANGE"

    def _message(self) -> dict[str, Any]:
        device, current = self._device, self._state.state.current
        components: list[dict[str, Any]] = []
        for name, placed in sorted(current.components.items()):
            status, reason = self._components().status(name)
            entry: dict[str, Any] = {
                "componentName": name,
                "version": placed.version,
                "fleetConfigArns": list(placed.targets),
                "isRoot": placed.root,
                "status": str(status),
            }
            if reason:
                entry["statusDetails"] = {"statusCodes": [str(status)], "statusReason": reason}
            components.append(entry)
        broken = any(item["status"] == Status.BROKEN for item in components)
        nucleus = "aws.greengrass.NucleusLite" if device.mode is Mode.LITE else "aws.greengrass.Nucleus"
        for name, version in ((nucleus, device.limits.version), (TOKEN_EXCHANGE, _TOKEN_EXCHANGE_VERSION)):
            components.append(
                {"componentName": name, "version": version, "fleetConfigArns": [], "isRoot": False, "status": "RUNNING"}
            )
        message: dict[str, Any] = {
            "ggcVersion": device.limits.version,
            "platform": "linux",
            "architecture": architecture(),
            "runtime": device.limits.runtime,
            "thing": device.thing,
            "sequenceNumber": self._state.next_sequence(),
            "timestamp": int(time.time() * 1000),
            "messageType": "COMPLETE",
            "trigger": self._trigger,
            "overallDeviceStatus": "UNHEALTHY" if broken else "HEALTHY",
            "components": components,
        }
        if self._outcome is not None:
            message["deploymentInformation"] = {
                "deploymentId": self._outcome.deployment,
                "fleetConfigurationArnForStatus": self._outcome.arn,
                "status": self._outcome.status,
                "statusDetails": dict(self._outcome.details),
            }
        return message
