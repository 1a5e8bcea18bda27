"""A fleet's thing groups, and which device is in which ring of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from hybridge_cloud.aws import iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.aws.session import NotFound
from hybridge_cloud.fleet import record
from hybridge_cloud.fleet.record import FleetRecord
from hybridge_cloud.fleet.rings import ring_of
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, InvalidName, Refused

_RING = re.compile(r"(.+)-r[0-9]")


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring of a fleet: its thing group and the devices in it, sorted."""

    number: int
    group: str
    arn: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Membership:
    """Where a device was enrolled."""

    thing: str
    fleet: str
    ring: int
    group: str


def ensure_groups(fleet: str) -> None:
    """Make the parent group, which never holds a thing, and its rings; groups that are there stay."""
    iot.create_group(names.fleet_name(fleet))
    for ring in range(names.RINGS):
        iot.create_group(names.ring_group(fleet, ring), parent=fleet)


def ensure_fleet(bucket: Bucket, fleet: str, prefix: str = names.DEFAULT_PREFIX) -> FleetRecord:
    """Make a fleet: groups, then the record. Making it twice changes nothing.

    Raises:
        Conflict: it exists with another prefix, or one of its groups is another fleet's. InvalidName.
    """
    if _RING.fullmatch(names.fleet_name(fleet)):
        raise InvalidName(f"The fleet name {fleet!r} reads as another fleet's ring.", "End it otherwise.")
    found = record.find(bucket, fleet)
    if found is not None and found.prefix != prefix:
        raise Conflict(f"The fleet {fleet!r} exists with the component prefix {found.prefix!r}.", "Use that prefix.")
    names.ComponentNames(prefix)
    ensure_groups(fleet)
    return record.create(bucket, fleet, prefix)


def rings(fleet: str) -> tuple[Ring, ...]:
    """The four rings of a fleet. Raises Refused where it has no thing groups."""
    found = []
    for number in range(names.RINGS):
        group = iot.find_group(names.ring_group(fleet, number))
        if group is None:
            raise Refused(
                f"The fleet {fleet!r} has no thing group {names.ring_group(fleet, number)!r}.",
                f"Make it: hybridge fleet create {fleet}",
            )
        found.append(Ring(number, group.name, group.arn, iot.things_in(group.name)))
    return tuple(found)


def placed(fleet: str) -> Mapping[str, int]:
    """The ring of every device of a fleet. Raises Refused where there is no such fleet, Conflict for one in two."""
    found: dict[str, int] = {}
    for ring in rings(fleet):
        for device in ring.devices:
            if device in found:
                raise Conflict(
                    f"The device {device!r} is in rings {found[device]} and {ring.number} of {fleet!r}.",
                    "Take it out of one of the two thing groups.",
                )
            found[device] = ring.number
    return found


def choose(thing: str, fleet: str, ring: int | None = None) -> Membership:
    """The ring that a device is in, or is to be in; changes nothing.

    Args:
        ring: the ring to pin it to; by a hash of its name where it is None.

    Raises:
        Conflict: it is in another ring than the one asked for, in another fleet, or directly in the parent group.
        Refused: there is no such fleet.
    """
    existing = placed(fleet)
    number = ring_of(names.thing_name(thing), existing, ring)
    if ring is not None and number != ring:
        raise Conflict(
            f"The device {thing!r} is in ring {number} of {fleet!r}, not in ring {ring}.",
            "A device's ring is for life.",
        )
    for group in iot.groups_of(thing):
        _check_other(thing, fleet, group)
    return Membership(thing, fleet, number, names.ring_group(fleet, number))


def _check_other(thing: str, fleet: str, group: str) -> None:
    """Whether a group that a device is in keeps it out of the fleet; groups that are no ring of ours do not."""
    if group == fleet:
        raise Conflict(
            f"The device {thing!r} is directly in the thing group {fleet!r}, which holds rings only.",
            "Take it out of that group.",
        )
    ring = _RING.fullmatch(group)
    if ring is None or ring[1] == fleet:
        return
    found = iot.find_group(group)
    if found is not None and found.parent == ring[1]:
        raise Conflict(
            f"The device {thing!r} is in the ring {group!r} of another fleet.",
            f"A device is in one fleet: take it out of {group!r}, or give this one another name.",
        )


def join(membership: Membership) -> None:
    """Put a device into its ring, for life; one that is there stays. It gets the ring's deployment at once.

    Raises:
        NotFound: there is no such thing. Conflict: somebody put it into another ring meanwhile.
    """
    thing, group = membership.thing, membership.group
    if group in iot.groups_of(thing):
        return
    try:
        iot.add_to_group(thing, group)
    except NotFound:
        raise NotFound(f"There is no device {thing!r}.", "Register it as a thing first.") from None
    rings_now = {names.ring_group(membership.fleet, number) for number in range(names.RINGS)}
    if others := sorted((rings_now & set(iot.groups_of(thing))) - {group}):
        iot.remove_from_group(thing, group)
        raise Conflict(f"The device {thing!r} was put into {others[0]!r} meanwhile.", "A device's ring is for life.")


def enrol(thing: str, fleet: str, ring: int | None = None) -> Membership:
    """Put a thing into a ring of a fleet: ``choose``, then ``join``."""
    membership = choose(thing, fleet, ring)
    join(membership)
    return membership
