"""What the generated policies let a device do, and what not: every topic and key the runtime uses, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hybridge_cloud.fleet import policies
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import InvalidName

SCOPE = policies.Scope("aws", "eu-west-1", "123456789012")
THING, OTHERS = "till", ("till2", "til", "door", "till-2", "TILL")
ALIAS = "hybridge-core"
BUCKET = "lake"


@pytest.fixture
def device(evaluator: Callable[..., Any]) -> Any:
    """Both of the certificate's policies, which AWS IoT evaluates together."""
    documents = policies.device_policies(THING, SCOPE, ALIAS).values()
    return evaluator({"Statement": [statement for document in documents for statement in document["Statement"]]})


@pytest.fixture
def role(evaluator: Callable[..., Any]) -> Any:
    """The one role, as the credentials provider fills it in for THING."""
    return evaluator(policies.role_policy(BUCKET, "aws"), **{"credentials-iot__ThingName": THING})


def iot(resource: str) -> str:
    return f"arn:aws:iot:eu-west-1:123456789012:{resource}"


def s3(key: str) -> str:
    return f"arn:aws:s3:::{BUCKET}/{key}"


def published(thing: str) -> list[str]:
    """What a device's components and its nucleus publish."""
    return [
        names.shadow_update_topic(thing),
        names.telemetry_topic(thing),
        names.results_topic(thing),
        names.windows_topic(thing),
        f"$aws/things/{thing}/greengrassv2/health/json",
        f"$aws/things/{thing}/jobs/$next/namespace-aws-gg-deployment/get",
        f"$aws/things/{thing}/jobs/job-1/namespace-aws-gg-deployment/update",
        f"$aws/things/{thing}/shadow/name/AWSManagedGreengrassV2Deployment/get",
    ]


def subscribed(thing: str) -> list[str]:
    return [
        f"$aws/things/{thing}/jobs/notify-next-namespace-aws-gg-deployment",
        f"$aws/things/{thing}/jobs/$next/namespace-aws-gg-deployment/get/accepted",
        f"$aws/things/{thing}/shadow/name/AWSManagedGreengrassV2Deployment/update/accepted",
        f"$aws/things/{thing}/shadow/name/hybridge/update/delta",
        names.windows_topic(thing),
    ]


def written(thing: str) -> list[str]:
    return [names.batch_data_key(thing, "watch", "a"), names.batch_manifest_key(thing, "watch", "a")]


def test_the_evaluator_can_say_both_yes_and_no(evaluator: Callable[..., Any]) -> None:
    wide = evaluator({"Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
    assert wide.allows("iot:Publish", iot("topic/hybridge/door/telemetry"))
    assert not wide.allows("s3:GetObject", s3("a"))
    prefix = evaluator({"Statement": [{"Effect": "Allow", "Action": ["iot:Connect"], "Resource": iot("client/till*")}]})
    assert prefix.allows("iot:Connect", iot("client/till2"))
    statements = [
        {"Effect": "Allow", "Action": "S3:Get*", "Resource": s3("${who}/*")},
        {"Effect": "Deny", "Action": "s3:GetObject", "Resource": s3("till/secret/*")},
    ]
    filled = evaluator({"Statement": statements}, who="till")
    assert filled.allows("s3:GetObject", s3("till/open"))
    assert not filled.allows("s3:GetObject", s3("till/secret/a"))
    assert not evaluator({"Statement": statements}).allows("s3:GetObject", s3("till/open"))


def test_a_device_may_do_what_its_runtime_and_its_nucleus_do(device: Any) -> None:
    for client in (THING, f"{THING}#2", f"{THING}#17"):
        assert device.allows("iot:Connect", iot(f"client/{client}")), client
    for topic in published(THING):
        assert device.allows("iot:Publish", iot(f"topic/{topic}")), topic
    for topic in subscribed(THING):
        assert device.allows("iot:Subscribe", iot(f"topicfilter/{topic}")), topic
        assert device.allows("iot:Receive", iot(f"topic/{topic}")), topic
    assert device.allows("iot:AssumeRoleWithCertificate", iot(f"rolealias/{ALIAS}"))
    for call in policies.GREENGRASS_CALLS:
        assert device.allows(call, "arn:aws:greengrass:eu-west-1:123456789012:components:a:versions:1.0.0")


@pytest.mark.parametrize("other", OTHERS)
def test_a_device_may_not_act_or_listen_as_another(device: Any, other: str) -> None:
    for client in (other, f"{other}#2", f"{other}-pipeline"):
        assert not device.allows("iot:Connect", iot(f"client/{client}")), client
    for topic in published(other) + subscribed(other):
        assert not device.allows("iot:Publish", iot(f"topic/{topic}")), topic
        assert not device.allows("iot:Receive", iot(f"topic/{topic}")), topic
        assert not device.allows("iot:Subscribe", iot(f"topicfilter/{topic}")), topic


def test_a_device_may_not_use_wide_filters_other_shadows_or_the_registry(device: Any) -> None:
    for topic in ("#", "+", "hybridge/#", "hybridge/+/telemetry", "$aws/things/+/jobs/notify", "sensors/+/windows"):
        assert not device.allows("iot:Subscribe", iot(f"topicfilter/{topic}")), topic
    for shadow in ("shadow/update", "shadow/name/other/update", "shadow/name/hybridge2/update"):
        assert not device.allows("iot:Publish", iot(f"topic/$aws/things/{THING}/{shadow}")), shadow
        assert not device.allows("iot:Subscribe", iot(f"topicfilter/$aws/things/{THING}/{shadow}")), shadow
    assert not device.allows("iot:Publish", iot(f"topic/hybridge/door/hybridge/{THING}/telemetry"))
    assert not device.allows("iot:RetainPublish", iot(f"topic/hybridge/{THING}/telemetry"))
    assert not device.allows("iot:AssumeRoleWithCertificate", iot("rolealias/admin"))
    for action in ("iot:UpdateThingShadow", "iot:DeleteThingShadow", "iot:AttachPolicy", "iot:UpdateCertificate"):
        assert not device.allows(action, iot(f"thing/{THING}")), action
    for action in ("greengrass:CreateDeployment", "greengrass:CreateComponentVersion", "greengrass:Discover"):
        assert not device.allows(action, "*"), action


def test_the_role_reads_artifacts_and_writes_below_its_own_device(role: Any) -> None:
    assert role.allows("s3:GetObject", s3(names.component_artifact_key("hybridge.InferenceServer", "1.0.0", "a.zip")))
    assert role.allows("s3:GetObject", s3(names.package_key("watch", "1.0.0", "manifest.json")))
    for key in written(THING):
        assert role.allows("s3:PutObject", s3(key)), key


@pytest.mark.parametrize("other", OTHERS)
def test_the_role_never_writes_below_another_device(role: Any, other: str) -> None:
    for key in written(other):
        assert not role.allows("s3:PutObject", s3(key)), key


def test_the_role_neither_lists_nor_deletes_nor_touches_what_decides(role: Any) -> None:
    keys = [
        names.fleet_key("shop"), names.registry_key("watch", "1.0.0"), names.dataset_key("watch", 1),
        names.labels_prefix("watch") + "a.jsonl", names.run_key("watch", "1", "a"), f"devices/{THING}",
        names.package_key("watch", "1.0.0", "manifest.json"),
    ]  # fmt: skip
    for key in keys:
        assert not role.allows("s3:PutObject", s3(key)), key
    for key in [*keys[:5], *written(THING), *written("door")]:
        assert not role.allows("s3:GetObject", s3(key)), key
    for action in ("s3:ListBucket", "s3:ListBucketVersions", "s3:PutBucketPolicy", "s3:DeleteBucket"):
        assert not role.allows(action, f"arn:aws:s3:::{BUCKET}"), action
    for action in ("s3:DeleteObject", "s3:PutObjectAcl", "s3:DeleteObjectVersion"):
        assert not role.allows(action, s3(written(THING)[0])), action
    assert not role.allows("s3:PutObject", f"arn:aws:s3:::other/devices/{THING}/a")


def test_a_role_without_a_thing_writes_nowhere(evaluator: Callable[..., Any]) -> None:
    unfilled = evaluator(policies.role_policy(BUCKET, "aws"))
    assert not any(unfilled.allows("s3:PutObject", s3(key)) for key in written(THING))


def test_policies_fit_the_longest_name_and_are_refused_where_they_would_not() -> None:
    longest = policies.Scope("aws-us-gov", "ap-southeast-2", "123456789012")
    for document in policies.device_policies("t" * 128, longest, ALIAS).values():
        assert len(json.dumps(document, separators=(",", ":"))) <= policies.MAX_POLICY_CHARACTERS
    with pytest.raises(InvalidName, match="characters"):
        policies.device_policies("t" * 128, longest, "a" * 1000)


def test_every_thing_has_policy_names_of_its_own_that_aws_allows() -> None:
    things = ["till", "till2", "line:1", "line_1", "line-1", "x" * 128, "topics-till", "device-till"]
    found = [name for thing in things for name in policies.policy_names(thing)]
    assert len(set(found)) == 2 * len(things)
    assert all(len(name) <= 128 and ":" not in name for name in found)
