from __future__ import annotations

import pytest

from hybridge_cloud.sandbox.device.authorize import MQTT, allowed, matches

PUBLISH = "aws.greengrass#PublishToIoTCore"


def policy(resources: list[str], operations: list[str] | None = None) -> dict[str, object]:
    return {"accessControl": {MQTT: {"p:1": {"operations": operations or [PUBLISH], "resources": resources}}}}


@pytest.mark.parametrize(
    ("resources", "topic", "wanted"),
    [
        (["*"], "any/topic", True),
        (["hybridge/*"], "hybridge/cam/telemetry", True),
        (["hybridge/+/telemetry"], "hybridge/cam/telemetry", True),
        (["hybridge/#"], "hybridge/a/b/c", True),
        (["hybridge/cam"], "hybridge/cam", True),
        (["hybridge/cam"], "hybridge/cam/x", False),
        (["hybridge/+"], "hybridge/a/b", False),
        (["a.c"], "abc", False),
        (["hybridge/+"], "hybridge/#", False),
        (["hybridge/#"], "hybridge/#", True),
        ([], "x", False),
    ],
)
def test_resources(resources: list[str], topic: str, wanted: bool) -> None:
    assert allowed(policy(resources), MQTT, PUBLISH, topic) is wanted


def test_operations_and_services_are_separate() -> None:
    assert allowed(policy(["*"], ["*"]), MQTT, PUBLISH, "x")
    assert not allowed(policy(["*"]), MQTT, "aws.greengrass#SubscribeToIoTCore", "x")
    assert not allowed(policy(["*"]), "aws.greengrass.ipc.pubsub", PUBLISH, "x")


@pytest.mark.parametrize(
    "configuration", [{}, {"accessControl": "no"}, {"accessControl": {MQTT: {"p": {"operations": "*"}}}}]
)
def test_anything_unreadable_allows_nothing(configuration: dict[str, object]) -> None:
    assert not allowed(configuration, MQTT, PUBLISH, "x")


def test_topic_filters() -> None:
    assert matches("a/+/c", "a/b/c")
    assert matches("#", "a/b")
    assert matches("a/#", "a")
    assert not matches("a/+", "a")
    assert not matches("#", "$aws/things")
    assert matches("$aws/#", "$aws/things")
