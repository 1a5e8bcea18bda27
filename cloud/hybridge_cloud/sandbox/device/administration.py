"""IPC operations by which components change the device or have a say in its changes, and why others are refused.

CreateLocalDeployment and RestartComponent need a policy of ``aws.greengrass.Cli`` on both nuclei. What only classic
has answers ServiceError on lite, as on a real core.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hybridge_cloud.sandbox.device.agreement import Agreements
from hybridge_cloud.sandbox.device.authorize import allowed
from hybridge_cloud.sandbox.device.components import Components
from hybridge_cloud.sandbox.device.configuration import Tree
from hybridge_cloud.sandbox.device.ipc import Answer, Denied, Stream
from hybridge_cloud.sandbox.device.local import LocalDeployments, read_request
from hybridge_cloud.sandbox.device.mode import Mode

CLI = "aws.greengrass.Cli"
Handler = Callable[[Mapping[str, Any], Stream], Awaitable[Answer]]
_PLUGINS = {
    "GetSecretValue": "the secret manager",
    "PutComponentMetric": "a consumer of its metrics",
    "GetThingShadow": "the shadow manager",
    "UpdateThingShadow": "the shadow manager",
    "DeleteThingShadow": "the shadow manager",
    "ListNamedShadowsForThing": "the shadow manager",
    "GetClientDeviceAuthToken": "the client device auth component",
    "VerifyClientDeviceIdentity": "the client device auth component",
    "AuthorizeClientDeviceAction": "the client device auth component",
    "SubscribeToCertificateUpdates": "the client device auth component",
    "ListComponents": "the Greengrass command line",
    "GetComponentDetails": "the Greengrass command line",
    "StopComponent": "the Greengrass command line",
    "ListLocalDeployments": "the Greengrass command line",
    "GetLocalDeploymentStatus": "the Greengrass command line",
    "CancelLocalDeployment": "the Greengrass command line",
    "CreateDebugPassword": "the Greengrass command line",
    "PauseComponent": "control groups of its own",
    "ResumeComponent": "control groups of its own",
}
"""What a classic core needs for an operation, and the local core device does not have."""


class Administration:
    """Serves these operations; lives on the event loop's thread.

    Args:
        read: the configuration of a component, None where it is not on the device.
    """

    def __init__(
        self,
        mode: Mode,
        components: Components,
        read: Callable[[str], Tree | None],
        local: LocalDeployments,
        agreements: Agreements,
    ) -> None:
        self._mode = mode
        self._components = components
        self._read = read
        self._local = local
        self._agreements = agreements

    def handlers(self) -> dict[str, Handler]:
        both: dict[str, Handler] = {
            "CreateLocalDeployment": self._create_local_deployment,
            "RestartComponent": self._restart,
        }
        if self._mode is Mode.LITE:
            return both
        return {
            **both,
            "SubscribeToComponentUpdates": self._agreements.subscribe_updates,
            "DeferComponentUpdate": self._agreements.defer,
            "SubscribeToValidateConfigurationUpdates": self._agreements.subscribe_validation,
            "SendConfigurationValidityReport": self._agreements.judge,
        }

    def refusal(self, name: str) -> Denied:
        """Why an operation is not served."""
        if self._mode is Mode.LITE:
            return Denied("ServiceError", f"Nucleus lite does not serve {name}.")
        lacks = _PLUGINS.get(name)
        if lacks is None:
            return Denied("ServiceError", f"This core device does not know {name}.")
        return Denied("ServiceError", f"{name} needs {lacks}, which the local core device does not have.")

    async def _create_local_deployment(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        self._authorize(stream, "CreateLocalDeployment", "*")
        components, removed, folders, rollback = read_request(request)
        deployment = self._local.submit(components, removed, folders, rollback=rollback)
        return Answer("CreateLocalDeploymentResponse", {"deploymentId": deployment})

    async def _restart(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        name = str(request["componentName"])
        self._authorize(stream, "RestartComponent", name)
        if self._read(name) is None:
            raise Denied("ResourceNotFoundError", f"{name} is not on this device.")
        done = self._components.restart(name)
        return Answer("RestartComponentResponse", {"restartStatus": "SUCCEEDED" if done else "FAILED"})

    def _authorize(self, stream: Stream, operation: str, resource: str) -> None:
        if not allowed(self._read(stream.component) or {}, CLI, f"aws.greengrass#{operation}", resource):
            raise Denied(
                "UnauthorizedError", f"{stream.component} may not {operation}: its accessControl has no policy for it."
            )
