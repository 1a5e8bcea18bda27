"""What a component may do over IPC: the ``accessControl`` of its own configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hybridge_cloud.sandbox.device.configuration import Tree

PUBSUB = "aws.greengrass.ipc.pubsub"
MQTT = "aws.greengrass.ipc.mqttproxy"


def allowed(configuration: Tree, service: str, operation: str, resource: str) -> bool:
    """Whether a policy of ``service`` names the operation (or ``*``) and a resource that covers this one.

    Args:
        operation: such as ``aws.greengrass#PublishToTopic``.
        resource: a topic, or the filter of a subscription.
    """
    control = configuration.get("accessControl")
    policies = control.get(service) if isinstance(control, Mapping) else None
    for policy in policies.values() if isinstance(policies, Mapping) else ():
        if not isinstance(policy, Mapping):
            continue
        operations, resources = policy.get("operations"), policy.get("resources")
        if not isinstance(operations, list) or not isinstance(resources, list):
            continue
        if ("*" in operations or operation in operations) and any(_covers(str(item), resource) for item in resources):
            return True
    return False


def _covers(pattern: str, resource: str) -> bool:
    """``*`` stands for anything; MQTT wildcards cover the topics they match."""
    if pattern == resource:
        return True
    glob = ".*".join(re.escape(part) for part in pattern.split("*"))
    if re.fullmatch(glob, resource, re.DOTALL):
        return True
    return not set("+#") & set(resource) and matches(pattern, resource)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter matches a topic (MQTT 5, 4.7): + is one level, # all that follow."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    wanted, found = topic_filter.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(found) or part not in ("+", found[index]):
            return False
    return len(wanted) == len(found)
