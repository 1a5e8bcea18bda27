"""A fleet's thing groups, and which device is in which ring of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybridge_cloud.aws import iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.aws.session import NotFound
from hybridge_cloud.fleet import record
from hybridge_cloud.fleet.record import FleetRecord
from hybridge_cloud.fleet.rings import ring_of
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, Refused


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
    """Make a fleet: groups and record. Making it twice changes nothing. Raises Conflict where it differs."""
    made = record.create(bucket, fleet, prefix)
    ensure_groups(fleet)
    return made


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


def enrol(thing: str, fleet: str, ring: int | None = None) -> Membership:
    """Put a device into a ring of a fleet, for life. Enrolling it again changes nothing.

    Args:
        ring: the ring to pin it to; by a hash of its name where it is None.

    Raises:
        Conflict: it is in another ring than the one asked for. NotFound: there is no such thing.
        Refused: there is no such fleet.
    """
    existing = placed(fleet)
    number = ring_of(names.thing_name(thing), existing, ring)
    if ring is not None and number != ring:
        raise Conflict(
            f"The device {thing!r} is in ring {number} of {fleet!r}, not in ring {ring}.",
            "A device's ring is for life.",
        )
    group = names.ring_group(fleet, number)
    if thing not in existing:
        try:
            iot.add_to_group(thing, group)
        except NotFound:
            raise NotFound(f"There is no device {thing!r}.", "Register it as a thing first.") from None
    return Membership(thing, fleet, number, group)
