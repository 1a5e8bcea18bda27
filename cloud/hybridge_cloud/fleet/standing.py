"""How a fleet's devices stand: when each was last heard of, and what it says it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from hybridge_cloud.aws import greengrass, iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.fleet import membership, record
from hybridge_cloud.fleet.record import FleetRecord
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.report import DeviceReport

ONLINE_SECONDS = 35 * 60.0
"""A device reports every 15 minutes: one that was not heard of for two periods, and some, is not online."""


@dataclass(frozen=True, slots=True)
class Report:
    """A device's own report, and when AWS IoT took it (Unix milliseconds, whole seconds)."""

    report: DeviceReport
    at_ms: int


@dataclass(frozen=True, slots=True)
class DeviceStanding:
    """One device. ``status`` is Greengrass': HEALTHY, UNHEALTHY, or "" for none; ``problem`` says why no report reads.

    ``online``: its report or its nucleus was heard of within ONLINE_SECONDS; ``heard_ms`` is the later of the two, 0
    for never.
    """

    thing: str
    ring: int
    online: bool
    heard_ms: int
    status: str
    last: Report | None
    problem: str = ""

    def to_json(self) -> dict[str, object]:
        return {
            "thing": self.thing,
            "ring": self.ring,
            "online": self.online,
            "heard_ms": self.heard_ms,
            "status": self.status,
            "reported_ms": self.last.at_ms if self.last else 0,
            "runtime_version": self.last.report.runtime_version if self.last else "",
            "models": [item.to_json() for item in self.last.report.models] if self.last else [],
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class RingStanding:
    """One ring: the id of its latest deployment or "", the versions that names by component, its devices."""

    number: int
    group: str
    deployment: str
    components: Mapping[str, str]
    devices: tuple[DeviceStanding, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "ring": self.number,
            "group": self.group,
            "deployment": self.deployment,
            "components": dict(self.components),
            "devices": [device.to_json() for device in self.devices],
        }


@dataclass(frozen=True, slots=True)
class FleetStanding:
    """A fleet: its record, and its rings."""

    record: FleetRecord
    rings: tuple[RingStanding, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "fleet": self.record.fleet,
            "prefix": self.record.prefix,
            "epoch": self.record.epoch,
            "models": [item.to_json() for item in self.record.models],
            "rings": [ring.to_json() for ring in self.rings],
        }


def look(bucket: Bucket, fleet: str) -> FleetStanding:
    """Look at a fleet. Raises Refused where there is none, Conflict for a device in two rings."""
    found = record.read(bucket, fleet)
    membership.placed(fleet)
    rings = []
    now_ms = time.time_ns() // 1_000_000
    for ring in membership.rings(fleet):
        latest = greengrass.latest_deployment(ring.arn)
        wanted = {name: item.version for name, item in sorted(latest.components.items())} if latest else {}
        devices = tuple(look_at(thing, ring.number, now_ms) for thing in ring.devices)
        rings.append(RingStanding(ring.number, ring.group, latest.id if latest else "", wanted, devices))
    return FleetStanding(found, tuple(rings))


def look_at(thing: str, ring: int, now_ms: int) -> DeviceStanding:
    """Look at one device; a report that does not read is a problem of the device, not an error."""
    problem = ""
    try:
        last = read_report(thing, iot.named_shadow(thing))
    except InvalidDocument as error:
        last, problem = None, str(error)
    core = greengrass.core_device(thing)
    heard = max(last.at_ms if last else 0, core.reported_ms if core else 0)
    online = now_ms - heard < ONLINE_SECONDS * 1000
    return DeviceStanding(thing, ring, online, heard, core.status if core else "", last, problem)


def read_report(thing: str, shadow: bytes | None) -> Report | None:
    """The report in a named shadow's document, or None where the device never reported.

    Raises:
        InvalidDocument: what lies there is no report, or is another device's.
    """
    if shadow is None:
        return None
    try:
        document = json.loads(shadow)
        reported = document["state"]["reported"]
        # The device writes the whole report at once, so any of its fields tells when.
        at = int(document["metadata"]["reported"]["sequence"]["timestamp"])
    except (ValueError, KeyError, TypeError):
        raise InvalidDocument(f"The shadow of {thing!r} holds no report.", "Look at the server's log there.") from None
    report = DeviceReport.from_bytes(canonical(reported))
    if report.thing != thing:
        raise InvalidDocument(f"The shadow of {thing!r} holds a report of {report.thing!r}.", "Look at that device.")
    return Report(report, at * 1000)
