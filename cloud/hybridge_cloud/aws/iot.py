"""The account's IoT registry: thing groups, who is in them, and the devices' named shadows."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_cloud.aws import session
from hybridge_edge.contract.errors import Conflict

SHADOW = "hybridge"


@dataclass(frozen=True, slots=True)
class ThingGroup:
    """A thing group: its ARN, and its parent's name or ""."""

    name: str
    arn: str
    parent: str = ""


def create_group(name: str, parent: str = "") -> ThingGroup:
    """Make a thing group, or return the one that is there.

    Raises:
        Conflict: a group of this name exists below another parent.
    """
    extra = {"parentGroupName": parent} if parent else {}
    try:
        answer = session.call("iot", "create_thing_group", thingGroupName=name, **extra)
    except Conflict:
        found = find_group(name)
        if found is None or found.parent != parent:
            raise Conflict(
                f"The thing group {name!r} exists already, below {(found.parent if found else '') or 'no parent'!r}.",
                "Choose another fleet name.",
            ) from None
        return found
    return ThingGroup(name, answer["thingGroupArn"], parent)


def find_group(name: str) -> ThingGroup | None:
    """The thing group of this name, or None."""
    try:
        answer = session.call("iot", "describe_thing_group", thingGroupName=name)
    except session.NotFound:
        return None
    parent = answer.get("thingGroupMetadata", {}).get("parentGroupName", "") or ""
    return ThingGroup(name, answer["thingGroupArn"], parent)


def things_in(group: str) -> tuple[str, ...]:
    """Names of the things in a group, sorted. Raises NotFound where there is no such group."""
    return tuple(sorted(session.pages("iot", "list_things_in_thing_group", "things", thingGroupName=group)))


def add_to_group(thing: str, group: str) -> None:
    """Put a thing into a group; a thing that is there already stays. Raises NotFound."""
    session.call("iot", "add_thing_to_thing_group", thingName=thing, thingGroupName=group)


def remove_from_group(thing: str, group: str) -> None:
    """Take a thing out of a group; one that is not in it, or not there, is fine."""
    try:
        session.call("iot", "remove_thing_from_thing_group", thingName=thing, thingGroupName=group)
    except session.NotFound:
        return


def groups_of(thing: str) -> tuple[str, ...]:
    """Names of the groups that a thing was put into, sorted; empty where there is no such thing."""
    try:
        found = session.pages("iot", "list_thing_groups_for_thing", "thingGroups", thingName=thing)
    except session.NotFound:
        return ()
    return tuple(sorted(item["groupName"] for item in found))


def named_shadow(thing: str, shadow: str = SHADOW) -> bytes | None:
    """The document of a thing's named shadow as JSON bytes, or None where the thing never wrote one."""
    try:
        answer = session.call("iot-data", "get_thing_shadow", thingName=thing, shadowName=shadow)
    except session.NotFound:
        return None
    with answer["payload"] as body:
        document: bytes = body.read()
    return document
