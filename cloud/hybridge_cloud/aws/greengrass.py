"""Greengrass in the account: component versions, deployments of thing groups, and what devices made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybridge_cloud.aws import session
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Conflict, InvalidDocument

SERVICE = "greengrassv2"
UPDATE_TIMEOUT_SECONDS = 60
"""How long a device may wait for components before it updates; ours never ask it to wait."""
CANCELLED = "CANCELED"
"""The status of a deployment, and of a device's execution of it, that was withdrawn."""


@dataclass(frozen=True, slots=True)
class ComponentVersion:
    """One version of a component. ``state`` is REQUESTED, INITIATED, DEPLOYABLE, FAILED or DEPRECATED."""

    name: str
    version: str
    arn: str
    state: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A component as a deployment names it. ``merge`` is JSON text of an object or "", ``reset`` JSON pointers."""

    version: str
    merge: str = ""
    reset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deployment:
    """One revision of a target's deployment."""

    id: str
    name: str
    target: str
    revision: str
    status: str
    components: Mapping[str, Wanted] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Execution:
    """What one device made of a deployment: ``status`` as ListEffectiveDeployments gives it, and why."""

    deployment: str
    target: str
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class InstalledComponent:
    """A component on a device, its lifecycle state there, and since when it has that (Unix time, ms; 0 unknown)."""

    name: str
    version: str
    state: str
    changed_ms: int = 0


@dataclass(frozen=True, slots=True)
class CoreDevice:
    """A core device's own word: ``status`` is HEALTHY or UNHEALTHY, ``reported_ms`` when it said so (Unix time)."""

    thing: str
    status: str
    reported_ms: int


def create_component(recipe: bytes) -> ComponentVersion:
    """Create a component version from a recipe. Raises Conflict where that version exists, with any content."""
    answer = session.call(SERVICE, "create_component_version", inlineRecipe=recipe)
    status = answer["status"]
    return ComponentVersion(
        answer["componentName"],
        answer["componentVersion"],
        answer["arn"],
        status["componentState"],
        status.get("message", ""),
    )


def describe_component(arn: str) -> ComponentVersion:
    """The component version behind an ARN. Raises NotFound."""
    answer = session.call(SERVICE, "describe_component", arn=arn)
    status = answer["status"]
    return ComponentVersion(
        answer["componentName"], answer["componentVersion"], arn, status["componentState"], status.get("message", "")
    )


def find_component(name: str, version: str) -> ComponentVersion | None:
    """This account's component version, or None."""
    arn = component_versions(name).get(version, "")
    return describe_component(arn) if arn else None


def recipe_of(arn: str) -> bytes:
    """The recipe of a component version, as the account keeps it. Raises NotFound."""
    answer = session.call(SERVICE, "get_component", arn=arn, recipeOutputFormat="JSON")
    recipe = answer["recipe"]
    return bytes(recipe) if isinstance(recipe, bytes | bytearray) else str(recipe).encode()


def component_versions(name: str) -> dict[str, str]:
    """ARN by version of one of this account's components; empty where there is none."""
    arn = _component_arn(name)
    if not arn:
        return {}
    try:
        found = session.pages(SERVICE, "list_component_versions", "componentVersions", arn=arn)
    except session.NotFound:
        return {}
    return {item["componentVersion"]: item["arn"] for item in found}


def _component_arn(name: str) -> str:
    for item in session.pages(SERVICE, "list_components", "components", scope="PRIVATE"):
        if item["componentName"] == name:
            return str(item["arn"])
    return ""


def latest_deployment(target: str) -> Deployment | None:
    """The newest deployment of a thing group's ARN, whoever wrote it, or None."""
    found = session.pages(SERVICE, "list_deployments", "deployments", targetArn=target, historyFilter="LATEST_ONLY")
    if not found:
        return None
    answer = session.call(SERVICE, "get_deployment", deploymentId=found[0]["deploymentId"])
    return Deployment(
        id=answer["deploymentId"],
        name=answer.get("deploymentName", ""),
        target=answer["targetArn"],
        revision=answer.get("revisionId", ""),
        status=answer["deploymentStatus"],
        components={name: _wanted(item) for name, item in answer.get("components", {}).items()},
    )


def create_deployment(target: str, name: str, components: Mapping[str, Wanted], token: str = "") -> str:
    """Write a thing group's next deployment, which replaces its whole component list, and return its id.

    A device on which it fails goes back to what it ran, as far as its nucleus can (failureHandlingPolicy ROLLBACK).

    Args:
        token: 1 to 64 characters; a call repeated with it returns the deployment of the first (CreateDeployment,
            clientToken). "" for none.
    """
    answer = session.call(
        SERVICE,
        "create_deployment",
        targetArn=target,
        deploymentName=name,
        **({"clientToken": token} if token else {}),
        components={component: _specification(wanted) for component, wanted in components.items()},
        deploymentPolicies={
            "failureHandlingPolicy": "ROLLBACK",
            "componentUpdatePolicy": {
                "timeoutInSeconds": UPDATE_TIMEOUT_SECONDS,
                "action": "SKIP_NOTIFY_COMPONENTS",
            },
        },
    )
    return str(answer["deploymentId"])


def cancel_deployment(deployment: str) -> bool:
    """Withdraw a deployment from devices that have not taken it; those that have keep it.

    Returns:
        False where it is not active any more, or gone.
    """
    try:
        session.call(SERVICE, "cancel_deployment", deploymentId=deployment)
    except (Conflict, session.NotFound):
        return False
    return True


def core_device(thing: str) -> CoreDevice | None:
    """What a core device last said of itself, or None where it never said anything."""
    try:
        answer = session.call(SERVICE, "get_core_device", coreDeviceThingName=thing)
    except session.NotFound:
        return None
    return CoreDevice(thing, answer["status"], int(answer["lastStatusUpdateTimestamp"].timestamp() * 1000))


def executions(thing: str) -> tuple[Execution, ...]:
    """What a core device made of its deployments; empty where it never was one."""
    try:
        found = session.pages(SERVICE, "list_effective_deployments", "effectiveDeployments", coreDeviceThingName=thing)
    except session.NotFound:
        return ()
    return tuple(
        Execution(item["deploymentId"], item["targetArn"], item["coreDeviceExecutionStatus"], item.get("reason", ""))
        for item in found
    )


def installed(thing: str) -> tuple[InstalledComponent, ...]:
    """The components on a core device as it last said; empty where it never said anything."""
    try:
        found = session.pages(SERVICE, "list_installed_components", "installedComponents", coreDeviceThingName=thing)
    except session.NotFound:
        return ()
    return tuple(
        InstalledComponent(
            item["componentName"],
            item["componentVersion"],
            item["lifecycleState"],
            int(item["lastStatusChangeTimestamp"].timestamp() * 1000) if "lastStatusChangeTimestamp" in item else 0,
        )
        for item in found
    )


def _wanted(item: Mapping[str, object]) -> Wanted:
    reader = Reader(item.get("configurationUpdate") or {}, "deployment's configuration update")
    return Wanted(str(item["componentVersion"]), reader.text("merge", ""), reader.strings("reset", ()))


def _specification(wanted: Wanted) -> dict[str, object]:
    specification: dict[str, object] = {"componentVersion": wanted.version}
    if wanted.merge or wanted.reset:
        if wanted.merge and not isinstance(json.loads(wanted.merge), dict):
            raise InvalidDocument("A configuration merge is not a JSON object.")
        update: dict[str, object] = {"merge": wanted.merge} if wanted.merge else {}
        if wanted.reset:
            update["reset"] = list(wanted.reset)
        specification["configurationUpdate"] = update
    return specification
