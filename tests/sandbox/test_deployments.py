"""Deployments: from boto3 to a device's jobs and back."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hybridge_cloud.sandbox.lifecycle import RunningSandbox

GROUP = "arn:aws:iot:us-east-1:000000000000:thinggroup/{}"


@pytest.fixture(scope="module")
def greengrass(client: Any) -> Any:
    return client("greengrassv2")


@pytest.fixture(scope="module")
def component(greengrass: Any, make_recipe: Any) -> str:
    name = f"tests.Deployed{uuid.uuid4().hex[:8]}"
    for version in ("1.0.0", "2.0.0"):
        greengrass.create_component_version(inlineRecipe=make_recipe(name, version))
    return name


def deploy(greengrass: Any, target: str, component: str, version: str = "1.0.0", **update: Any) -> str:
    entry = {"componentVersion": version, **({"configurationUpdate": update} if update else {})}
    made = greengrass.create_deployment(
        targetArn=GROUP.format(target), deploymentName="a wave", components={component: entry},
        deploymentPolicies={"failureHandlingPolicy": "ROLLBACK"},
    )  # fmt: skip
    return str(made["deploymentId"])


def test_a_device_gets_the_documented_job_and_its_word_is_kept(
    greengrass: Any, registered_device: Any, component: str
) -> None:
    target = f"{registered_device.fleet}-r0"
    assert registered_device.next() == (204, None)
    merge = json.dumps({"hybridge": {"epoch": "3"}})
    deployment = deploy(greengrass, target, component, merge=merge, reset=["/old"])
    status, job = registered_device.next()
    assert status == 200
    assert job["document"] == {
        "deploymentId": deployment,
        "configurationArn": f"arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/{target}:1",
        "components": {
            component: {
                "version": "1.0.0",
                "configurationUpdate": {"merge": {"hybridge": {"epoch": "3"}}, "reset": ["/old"]},
            }
        },
        "failureHandlingPolicy": "ROLLBACK",
    }
    assert registered_device.next()[1] == job  # not taken yet
    assert registered_device.report(job["jobId"], "IN_PROGRESS") == (200, {"status": "IN_PROGRESS"})
    assert registered_device.next()[1] == job  # a device that restarts finds it again
    details = {"reason": "all is well"}
    assert registered_device.report(job["jobId"], "SUCCEEDED", details) == (200, {"status": "SUCCEEDED"})
    assert registered_device.report(job["jobId"], "FAILED") == (200, {"status": "SUCCEEDED"})  # final is final
    assert registered_device.next() == (204, None)
    assert registered_device.health([])[0] == 200
    (effective,) = greengrass.list_effective_deployments(coreDeviceThingName=registered_device.thing)[
        "effectiveDeployments"
    ]
    assert effective["coreDeviceExecutionStatus"] == "SUCCEEDED"
    assert effective["reason"] == "all is well"
    described = greengrass.get_deployment(deploymentId=deployment)
    assert described["deploymentStatus"] == "ACTIVE"
    assert described["components"][component]["configurationUpdate"] == {"merge": merge, "reset": ["/old"]}
    assert described["isLatestForTarget"]


def test_a_new_revision_takes_the_place_of_one_no_device_has_taken(
    greengrass: Any, registered_device: Any, component: str
) -> None:
    target = f"{registered_device.fleet}-r0"
    first = deploy(greengrass, target, component)
    registered_device.next()
    second = deploy(greengrass, target, component, "2.0.0")
    _, job = registered_device.next()
    assert job["document"]["deploymentId"] == second
    assert job["document"]["configurationArn"].endswith(":2")
    registered_device.report(job["jobId"], "SUCCEEDED")
    assert registered_device.next() == (204, None)
    assert greengrass.get_deployment(deploymentId=first)["deploymentStatus"] == "INACTIVE"
    listed = greengrass.list_deployments(targetArn=GROUP.format(target))["deployments"]
    assert [entry["deploymentId"] for entry in listed] == [second]
    history = greengrass.list_deployments(targetArn=GROUP.format(target), historyFilter="ALL")["deployments"]
    assert [entry["revisionId"] for entry in history] == ["2", "1"]


def test_a_cancelled_deployment_reaches_nobody_and_cannot_be_cancelled_again(
    greengrass: Any, registered_device: Any, component: str
) -> None:
    deployment = deploy(greengrass, f"{registered_device.fleet}-r0", component)
    greengrass.cancel_deployment(deploymentId=deployment)
    assert registered_device.next() == (204, None)
    assert greengrass.get_deployment(deploymentId=deployment)["deploymentStatus"] == "CANCELED"
    with pytest.raises(greengrass.exceptions.ConflictException):
        greengrass.cancel_deployment(deploymentId=deployment)


def test_a_device_that_joins_later_gets_the_groups_deployment(
    sandbox: RunningSandbox, greengrass: Any, registered_device: Any, component: str, device_type: Any, tmp_path: Path
) -> None:
    deployment = deploy(greengrass, f"{registered_device.fleet}-r0", component)
    late = tmp_path / "late"
    late.mkdir()
    joined = device_type(sandbox, late, registered_device.fleet)
    assert joined.next()[1]["document"]["deploymentId"] == deployment


def test_a_waiting_device_is_woken_by_a_deployment(greengrass: Any, registered_device: Any, component: str) -> None:
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(registered_device.next(wait=20)))
    waiting.start()
    deployment = deploy(greengrass, f"{registered_device.fleet}-r0", component)
    waiting.join(20)
    assert found[0][1]["document"]["deploymentId"] == deployment


def test_health_fills_what_the_cloud_knows_of_a_device(greengrass: Any, registered_device: Any, component: str) -> None:
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_core_device(coreDeviceThingName=registered_device.thing)
    arn = f"arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/{registered_device.fleet}-r0:1"
    root = {
        "componentName": component,
        "version": "1.0.0",
        "fleetConfigArns": [arn],
        "isRoot": True,
        "status": "RUNNING",
    }
    below = {
        "componentName": "tests.Below",
        "version": "1.0.0",
        "fleetConfigArns": [],
        "isRoot": False,
        "status": "FINISHED",
    }
    registered_device.health([root, below])
    core = greengrass.get_core_device(coreDeviceThingName=registered_device.thing)
    assert (core["status"], core["platform"], core["architecture"]) == ("HEALTHY", "linux", "amd64")
    installed = greengrass.list_installed_components(coreDeviceThingName=registered_device.thing, topologyFilter="ALL")[
        "installedComponents"
    ]
    assert [(entry["componentName"], entry["lifecycleState"], entry["isRoot"]) for entry in installed] == [
        ("tests.Below", "FINISHED", False), (component, "RUNNING", True),
    ]  # fmt: skip
    assert installed[1]["lastInstallationSource"] == f"thinggroup/{registered_device.fleet}-r0"
    registered_device.health([root], "UNHEALTHY")
    fleet = greengrass.list_core_devices(thingGroupArn=GROUP.format(registered_device.fleet), status="UNHEALTHY")
    assert [entry["coreDeviceThingName"] for entry in fleet["coreDevices"]] == [registered_device.thing]
    installed = greengrass.list_installed_components(coreDeviceThingName=registered_device.thing, topologyFilter="ALL")[
        "installedComponents"
    ]
    assert [entry["componentName"] for entry in installed] == [component]
    groups = registered_device.call("GET", f"/greengrass/v2/coreDevices/{registered_device.thing}/thingGroups")[1]
    assert [group["thingGroupName"] for group in groups["thingGroups"]] == [f"{registered_device.fleet}-r0"]
    greengrass.delete_core_device(coreDeviceThingName=registered_device.thing)
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_core_device(coreDeviceThingName=registered_device.thing)


def test_health_of_a_thing_nobody_registered_is_refused(registered_device: Any) -> None:
    registered_device.thing = "nobody"
    assert registered_device.health([])[0] == 404


@pytest.mark.parametrize(
    ("target", "version", "merge", "kind", "word"),
    [
        ("no-such-group", "1.0.0", "{}", "ResourceNotFoundException", "no-such-group"),
        (None, "9.0.0", "{}", "ResourceNotFoundException", "versions:9.0.0"),
        (None, "1.0.0", "not json", "ValidationException", "not JSON"),
        (None, "1.0.0", "[]", "ValidationException", "not a JSON object"),
    ],
)
def test_a_deployment_of_what_cannot_be_is_refused(
    greengrass: Any,
    registered_device: Any,
    component: str,
    target: str | None,
    version: str,
    merge: str,
    kind: str,
    word: str,
) -> None:
    with pytest.raises(ClientError, match=word) as caught:
        deploy(greengrass, target or f"{registered_device.fleet}-r0", component, version, merge=merge)
    assert caught.value.response["Error"]["Code"] == kind
    assert registered_device.next() == (204, None)
