"""The device's HTTP calls to the control service: jobs, thing groups, component resolution, fleet status.

Resolution and thing groups are the real data plane's calls. Jobs come by jobs_link over MQTT, as to a real device; the
long poll here is for where that fails.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from hybridge_cloud.sandbox.device.mode import MEBIBYTE
from hybridge_edge.contract.errors import InvalidDocument, Refused, Unavailable

_CALL_SECONDS = 15
_ANSWER_BYTES = 8 * MEBIBYTE


@dataclass(frozen=True, slots=True)
class ComponentUpdate:
    """One root component of a deployment: its version, and what is done to its configuration."""

    version: str
    merge: Any
    reset: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpdatePolicy:
    """What components are asked before an update, and for how many seconds at most; None: the nucleus' default."""

    notify: bool = True
    within: float | None = None
    validate_within: float | None = None


LOCAL = "LOCAL_DEPLOYMENT"
"""The target of deployments that were made on the device."""


@dataclass(frozen=True, slots=True)
class Job:
    """A deployment job's document (the one a device gets by IoT Jobs), or a local deployment, which has no ``arn``.

    Args:
        removed: root components that a local deployment takes away.
    """

    id: str
    deployment: str
    arn: str
    components: Mapping[str, ComponentUpdate]
    rollback: bool
    policy: UpdatePolicy = UpdatePolicy()
    removed: tuple[str, ...] = ()

    @property
    def local(self) -> bool:
        return not self.arn

    @property
    def target(self) -> str:
        """``thinggroup/NAME``, ``thing/NAME`` or LOCAL."""
        return LOCAL if self.local else self.arn.split(":configuration:", 1)[1].rsplit(":", 1)[0]


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the cloud chose for a component, with its recipe's text."""

    name: str
    version: str
    recipe: bytes


class Cloud(Protocol):
    """What a core device asks of its account, and tells it. Calls block; ``close`` ends one that waits."""

    def close(self) -> None: ...

    def thing_groups(self) -> tuple[str, ...]: ...

    def resolve(
        self, name: str, version: str, requirements: Mapping[str, str], platform: Mapping[str, str]
    ) -> Resolved: ...

    def next_job(self, wait: int) -> Job | None: ...

    def report_job(self, job: str, status: str, details: Mapping[str, str]) -> None: ...

    def report_health(self, message: Mapping[str, Any]) -> None: ...


class NoCloud:
    """The account of a device that has none: it takes local deployments only."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def close(self) -> None:
        self._closed.set()

    def thing_groups(self) -> tuple[str, ...]:
        return ()

    def resolve(
        self, name: str, version: str, requirements: Mapping[str, str], platform: Mapping[str, str]
    ) -> Resolved:
        raise _no_candidate(name, requirements)

    def next_job(self, wait: int) -> Job | None:
        self._closed.wait(wait)
        return None

    def report_job(self, job: str, status: str, details: Mapping[str, str]) -> None:
        """Nobody is told."""

    def report_health(self, message: Mapping[str, Any]) -> None:
        """Nobody is told."""


def _no_candidate(name: str, requirements: Mapping[str, str]) -> Refused:
    wanted = ", ".join(f"{text} for {dependent}" for dependent, text in requirements.items())
    return Refused(f"No version of {name} meets {wanted}: no candidate.", "Publish one, or change the deployment.")


class CloudLink:
    """Calls block; each has a bound. ``close`` ends one that waits."""

    def __init__(self, endpoint: str, thing: str) -> None:
        address = urlsplit(endpoint)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise Refused(
                f"The control service's address {endpoint!r} is not a URL.", "Set AWS_ENDPOINT_URL_GREENGRASSV2."
            )
        self._secure = address.scheme == "https"
        self._host, self._port = address.hostname, address.port
        self._prefix = address.path.rstrip("/")
        self._thing = quote(thing, safe="")
        self._waiting: http.client.HTTPConnection | None = None
        self._closed = False

    def close(self) -> None:
        self._closed = True
        waiting = self._waiting
        if waiting is not None and waiting.sock is not None:
            try:
                waiting.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the other side was quicker

    def thing_groups(self) -> tuple[str, ...]:
        """The names of the thing groups this device is in."""
        answer = self._call("GET", f"/greengrass/v2/coreDevices/{self._thing}/thingGroups")
        return tuple(group["thingGroupName"] for group in _field(answer, "thingGroups", list))

    def resolve(
        self, name: str, version: str, requirements: Mapping[str, str], platform: Mapping[str, str]
    ) -> Resolved:
        """The version of one component that meets all requirements (dependent's name to range), and its recipe.

        Raises:
            Refused: there is none.
        """
        candidate: dict[str, Any] = {"componentName": name, "versionRequirements": dict(requirements)}
        if version:
            candidate["componentVersion"] = version
        request = {
            "platform": {"name": platform["os"], "attributes": dict(platform)},
            "componentCandidates": [candidate],
        }
        answer = self._call("POST", "/greengrass/v2/resolveComponentCandidates", request)
        for item in _field(answer, "resolvedComponentVersions", list):
            if item.get("componentName") == name:
                return Resolved(name, item["componentVersion"], base64.b64decode(item["recipe"]))
        raise _no_candidate(name, requirements)

    def next_job(self, wait: int) -> Job | None:
        """The next deployment, or None when ``wait`` seconds brought none."""
        answer = self._call("GET", f"/sandbox/coreDevices/{self._thing}/jobs/next?wait={wait}", None, wait)
        if answer is None:
            return None
        number = _field(answer, "jobId", str)
        try:
            return read_job(number, _field(answer, "document", dict))
        except (InvalidDocument, KeyError, TypeError, AttributeError) as error:
            self.report_job(number, "REJECTED", {"deployment-failure-cause": f"The job document lacks {error}"})
            return None

    def report_job(self, job: str, status: str, details: Mapping[str, str]) -> None:
        """Tell how a job stands: IN_PROGRESS, SUCCEEDED, FAILED or REJECTED."""
        path = f"/sandbox/coreDevices/{self._thing}/jobs/{quote(job, safe='')}"
        self._call("POST", path, {"status": status, "statusDetails": dict(details)})

    def report_health(self, message: Mapping[str, Any]) -> None:
        """Send one fleet status message."""
        self._call("POST", f"/sandbox/coreDevices/{self._thing}/health", message)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None, wait: int = 0) -> Any:
        """One request on a connection of its own; None for 204."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_CALL_SECONDS + wait)
        try:
            connection.connect()
            if wait:
                self._waiting = connection
                if self._closed:
                    raise Unavailable("The core device is stopping.")
            data = None if body is None else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, self._prefix + path, data, headers)
            response = connection.getresponse()
            text = response.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"The control service at {self._host}:{self._port} does not answer ({error}).",
                "Check that the sandbox is up.",
            ) from None
        finally:
            if wait:
                self._waiting = None
            connection.close()
        if response.status == http.HTTPStatus.NO_CONTENT:
            return None
        if response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unavailable(f"The control service answers {response.status} to {method} {path}.", "Read its log.")
        try:
            answer = json.loads(text) if text else {}
        except ValueError:
            raise InvalidDocument(f"The control service answers {method} {path} with no JSON.") from None
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            said = answer.get("message") or answer.get("Message") if isinstance(answer, dict) else ""
            raise Refused(f"The control service refuses {method} {path} ({response.status}): {said}.")
        return answer


def read_job(number: str, document: Any) -> Job:
    """A job's document. Raises InvalidDocument, KeyError, TypeError or AttributeError where it is none."""
    arn = _field(document, "configurationArn", str)
    if ":configuration:" not in arn:
        raise InvalidDocument("a configuration ARN")
    components = {
        name: ComponentUpdate(str(item["version"]), change.get("merge"), tuple(change.get("reset") or ()))
        for name, item in _field(document, "components", dict).items()
        for change in [item.get("configurationUpdate") or {}]
    }
    rollback = document.get("failureHandlingPolicy", "ROLLBACK") == "ROLLBACK"
    update, validation = (document.get(key) or {} for key in ("componentUpdatePolicy", "configurationValidationPolicy"))
    policy = UpdatePolicy(
        update.get("action", "NOTIFY_COMPONENTS") != "SKIP_NOTIFY_COMPONENTS", _time(update), _time(validation)
    )
    return Job(number, _field(document, "deploymentId", str), arn, components, rollback, policy)


def _time(policy: Mapping[str, Any]) -> float | None:
    value = policy.get("timeout")
    return None if value is None else float(value)


def _field(answer: Any, name: str, kind: type[Any]) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise InvalidDocument(f"The control service's answer has no {name}.")
    return value
