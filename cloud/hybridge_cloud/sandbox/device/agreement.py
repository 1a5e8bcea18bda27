"""What components have a say in before a deployment changes the device: when it happens, and their configuration.

Classic only (SubscribeToComponentUpdates, SubscribeToValidateConfigurationUpdates of the Greengrass IPC reference).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from hybridge_cloud.sandbox.device.cloud_link import UpdatePolicy
from hybridge_cloud.sandbox.device.configuration import Tree
from hybridge_cloud.sandbox.device.ipc import Answer, Denied, Stream
from hybridge_cloud.sandbox.device.mode import Limits
from hybridge_edge.contract.errors import Refused

_MILLISECONDS = 1000.0
_RECHECK_LONGEST = 24 * 3600.0
"""Seconds a component may put an update off at once."""


class Agreements:
    """Who wants to be asked, and what they answered; lives on the event loop's thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._updates: dict[str, Stream] = {}
        self._validations: dict[str, Stream] = {}
        self._deployment = ""
        self._recheck: dict[str, float] = {}
        """What components answered about the update in question: seconds to wait, 0 for no objection."""
        self._verdicts: dict[str, tuple[str, str]] = {}
        self._news = asyncio.Event()

    async def subscribe_updates(self, _request: Mapping[str, Any], stream: Stream) -> Answer:
        self._keep(self._updates, stream)
        return Answer("SubscribeToComponentUpdatesResponse", {}, stays_open=True)

    async def subscribe_validation(self, _request: Mapping[str, Any], stream: Stream) -> Answer:
        self._keep(self._validations, stream)
        return Answer("SubscribeToValidateConfigurationUpdatesResponse", {}, stays_open=True)

    async def defer(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        """A component's answer about an update: when to ask again, or 0 for no objection."""
        if stream.component not in self._updates:
            raise Denied("InvalidArgumentsError", f"{stream.component} did not subscribe to component updates.")
        if not request.get("deploymentId"):
            raise Denied("InvalidArgumentsError", "There is no deploymentId.")
        seconds = int(request.get("recheckAfterMs") or 0) / _MILLISECONDS
        if not 0 <= seconds <= _RECHECK_LONGEST:
            raise Denied("InvalidArgumentsError", "recheckAfterMs is not a time of at most a day.")
        if request["deploymentId"] == self._deployment:
            self._recheck[stream.component] = seconds
            self._news.set()
        return Answer("DeferComponentUpdateResponse", {})

    async def judge(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        """A component's word on a configuration."""
        report = request["configurationValidityReport"]
        if report.get("status") not in ("ACCEPTED", "REJECTED"):
            raise Denied("InvalidArgumentsError", "A status is ACCEPTED or REJECTED.")
        if stream.component not in self._validations:
            raise Denied("InvalidArgumentsError", f"{stream.component} did not subscribe to validate configurations.")
        if report.get("deploymentId") == self._deployment:
            self._verdicts[stream.component] = (report["status"], str(report.get("message") or "")[:300])
            self._news.set()
        return Answer("SendConfigurationValidityReportResponse", {})

    async def validate(self, deployment: str, changes: Mapping[str, Tree], within: float | None) -> None:
        """Ask the components concerned whether their next configuration is one.

        Raises:
            Refused: one says no, or nothing in time.
        """
        asked = {name: tree for name, tree in changes.items() if name in self._validations}
        self._deployment, self._verdicts = deployment, {}
        for name, tree in asked.items():
            event = {"validateConfigurationUpdateEvent": {"configuration": tree, "deploymentId": deployment}}
            self._validations[name].event("ValidateConfigurationUpdateEvents", event)
        seconds = self._limits.validate_within if within is None else within
        await self._until(lambda: asked.keys() <= self._verdicts.keys() | self._gone(asked, self._validations), seconds)
        for name in asked:
            status, message = self._verdicts.get(name, ("", ""))
            if status == "REJECTED":
                raise Refused(f"{name} rejects its new configuration: {message}.", "Deploy one that it takes.")
            if not status and name in self._validations:
                raise Refused(f"{name} did not judge its configuration in {seconds:g} s.", "Look at the component.")

    async def ask(self, deployment: str, policy: UpdatePolicy) -> None:
        """Return once no component objects to the update; who says nothing in time does not object."""
        if not policy.notify:
            return
        waiting = set(self._updates)
        self._deployment = deployment
        while waiting:
            self._recheck = {}
            for name in waiting & self._updates.keys():
                event = {"preUpdateEvent": {"deploymentId": deployment, "isGgcRestarting": False}}
                self._updates[name].event("ComponentUpdatePolicyEvents", event)
            seconds = self._limits.defer_within if policy.within is None else policy.within
            asked = set(waiting)
            await self._until(
                lambda asked=asked: asked <= self._recheck.keys() | self._gone(asked, self._updates),  # type: ignore[misc]
                seconds,
            )
            late = {name: pause for name, pause in self._recheck.items() if pause and name in self._updates}
            waiting = set(late)
            if late:
                await asyncio.sleep(min(late.values()))

    def updated(self, deployment: str) -> None:
        """Tell whoever subscribed that the update is over."""
        for stream in list(self._updates.values()):
            stream.event("ComponentUpdatePolicyEvents", {"postUpdateEvent": {"deploymentId": deployment}})

    def _keep(self, streams: dict[str, Stream], stream: Stream) -> None:
        streams[stream.component] = stream

        def close() -> None:
            if streams.get(stream.component) is stream:
                del streams[stream.component]
                self._news.set()

        stream.on_close = close

    @staticmethod
    def _gone(names: Any, streams: Mapping[str, Stream]) -> set[str]:
        """Those who left meanwhile: nobody waits for them."""
        return set(names) - streams.keys()

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass  # the caller looks at who answered
