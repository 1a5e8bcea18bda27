"""The sandbox's devices: one folder each, whose ``device.json`` says that the keeper shall run it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from hybridge_cloud.aws import session
from hybridge_cloud.fleet import enrolment, membership
from hybridge_cloud.sandbox import processes, provision, things
from hybridge_cloud.sandbox.device.__main__ import TRUST_FILE
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.mode import Mode, limits_of
from hybridge_cloud.sandbox.folder import Ports, Recorded, SandboxFolder
from hybridge_cloud.sandbox.folder import environment as account_environment
from hybridge_edge import durable, runtime
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, InvalidDocument, ModelNotFound, Unavailable, UsageError
from hybridge_edge.contract.trust_document import TRUST_VARIABLE, TrustDocument

FORMAT = 1
MODES = ("classic", "lite")
HEALTH_SECONDS = 90.0
STOP_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class Device:
    """One registered device.

    Args:
        name: the thing's name. fleet: the parent group. ring: 0 to 3. groups: thing groups it is in.
        mode: which nucleus it behaves as, ``classic`` or ``lite``.
    """

    name: str
    fleet: str
    ring: int
    groups: tuple[str, ...]
    mode: str

    def write(self, folder: SandboxFolder) -> None:
        document = {
            "format": FORMAT,
            "name": self.name,
            "fleet": self.fleet,
            "ring": self.ring,
            "groups": list(self.groups),
            "mode": self.mode,
        }
        durable.write(folder.device(self.name) / "device.json", json.dumps(document, indent=2).encode() + b"\n")


def read(path: Path) -> Device:
    """The device described by a ``device.json``.

    Raises:
        InvalidDocument: it is not one of format 1.
    """
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT:
            raise InvalidDocument(
                f"{path} has format {document['format']}, not {FORMAT}.", "Remove that device's folder."
            )
        return Device(
            document["name"], document["fleet"], int(document["ring"]), tuple(document["groups"]), document["mode"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidDocument(
            f"{path} is not a device's description ({error}).", "Remove that device's folder."
        ) from None


def registered(folder: SandboxFolder) -> list[Device]:
    """Every registered device, by name."""
    found = []
    for path in sorted(folder.devices.glob("*/device.json")):
        try:
            found.append(read(path))
        except FileNotFoundError:
            continue  # removed since it was listed
    return found


def environment(folder: SandboxFolder, name: str) -> dict[str, str]:
    """What lets a program outside Greengrass find a device: its runtime folder, its trust file.

    Raises:
        ModelNotFound: no such device.
    """
    home = folder.device(names.thing_name(name))
    if not (home / "device.json").exists():
        raise ModelNotFound(f"There is no device {name}.", "See 'hybridge sandbox device list'.")
    layout = Layout(home.resolve(), limits_of(Mode(read(home / "device.json").mode)).socket_name)
    return {
        "HYBRIDGE_RUNTIME_DIR": str(runtime.of_nucleus(str(layout.socket()))),
        TRUST_VARIABLE: str(home.resolve() / TRUST_FILE),
    }


def process(folder: SandboxFolder, name: str) -> Recorded | None:
    """The running core device, or None."""
    try:
        pid, started = (folder.device(name) / "process").read_text().split()
        found = Recorded(int(pid), int(started))
    except (FileNotFoundError, ValueError):
        return None
    return found if processes.alive(found) else None


def add(
    folder: SandboxFolder,
    ports: Ports,
    name: str,
    fleet: str,
    mode: str,
    ring: int | None,
    trust: TrustDocument | None,
    say: Callable[[str], None],
) -> Device:
    """Register a device, let the keeper start it, and wait until it has reported its health.

    Args:
        trust: whose packages it believes; None: it believes none.

    Raises:
        Conflict: a device of that name exists, here or in the account. Unavailable: it did not report in time.
    """
    names.thing_name(name)
    names.fleet_name(fleet)
    if mode not in MODES:
        raise UsageError(f"{mode!r} is not a mode.", f"Use one of {', '.join(MODES)}.")
    if ring is not None and not 0 <= ring < names.RINGS:
        raise UsageError(f"Ring {ring} does not exist.", f"Use 0 to {names.RINGS - 1}.")
    if any(device.name == name for device in registered(folder)):
        raise Conflict(
            f"Device {name} is registered already.", f"Use another name, or 'hybridge sandbox device remove {name}'."
        )
    with session.using(account_environment(ports)):
        if things.ensure_fleet(fleet):
            say(f"there was no fleet {fleet}: making it")
        chosen = membership.choose(name, fleet, ring)
    device = Device(name, fleet, chosen.ring, (chosen.group,), mode)
    say(f"registering {name} in {chosen.group}")
    enrol(folder, ports, device, trust)
    device.write(folder)  # the keeper starts what has a device.json
    say("waiting for its first health report")
    greengrass = provision.session().client(
        "greengrassv2", endpoint_url=provision.control_endpoint(ports), config=provision.configuration()
    )

    def reported() -> bool:
        try:
            greengrass.get_core_device(coreDeviceThingName=name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            return False
        return True

    if not processes.wait_until(reported, HEALTH_SECONDS):
        raise Unavailable(
            f"Device {name} is registered but reported no health in {HEALTH_SECONDS:.0f} s.",
            f"Read {folder.logs / f'device-{name}.log'}; the sandbox keeps trying to start it.",
        )
    return device


def enrol(folder: SandboxFolder, ports: Ports, device: Device, trust: TrustDocument | None = None) -> None:
    """Make the account know the device, as ``hybridge fleet enroll`` does; it may know it already."""
    with session.using(account_environment(ports)):
        things.ensure_fleet(device.fleet)
        things.enrol(ports, folder.device(device.name), device.name, device.fleet, device.ring, device.mode, trust)


def enrol_all(folder: SandboxFolder, ports: Ports) -> None:
    """Make the account know every registered device, and the one client that replays recordings."""
    for device in registered(folder):
        enrol(folder, ports, device)
    with session.using(account_environment(ports)):
        things.identify(ports, folder.sensors, things.SENSORS)


def remove(folder: SandboxFolder, ports: Ports, name: str) -> None:
    """Stop a device, take it out of the account and remove its folder.

    Raises:
        ModelNotFound: no such device. Unavailable: its processes did not end.
    """
    home = folder.device(names.thing_name(name))
    if not (home / "device.json").exists():
        raise ModelNotFound(f"There is no device {name}.", "See 'hybridge sandbox device list'.")
    durable.rename(home / "device.json", home / "device.json.removed")
    if not processes.wait_until(lambda: process(folder, name) is None, STOP_SECONDS):
        durable.rename(home / "device.json.removed", home / "device.json")
        raise Unavailable(f"Device {name} did not stop in {STOP_SECONDS:.0f} s.", "Look at 'hybridge sandbox status'.")
    with session.using(account_environment(ports)):
        enrolment.revoke(name)
    greengrass = provision.session().client("greengrassv2", endpoint_url=provision.control_endpoint(ports))
    try:
        greengrass.delete_core_device(coreDeviceThingName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    shutil.rmtree(home)
