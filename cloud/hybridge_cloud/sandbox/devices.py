"""The sandbox's devices: one folder each, whose ``device.json`` says that the keeper shall run it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import ClientError

from hybridge_cloud.aws import session
from hybridge_cloud.fleet import enrolment
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
        name: the thing's name. fleet: the parent group. ring: 0 to 3.
        mode: which nucleus it behaves as, ``classic`` or ``lite``.
    """

    name: str
    fleet: str
    ring: int
    mode: str

    @property
    def groups(self) -> tuple[str, ...]:
        """The thing groups it is in."""
        return (names.ring_group(self.fleet, self.ring),)

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
        return Device(document["name"], document["fleet"], int(document["ring"]), str(Mode(document["mode"])))
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
    except (FileNotFoundError, NotADirectoryError, ValueError):
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
    with _alone(folder):  # two commands at once would both take one name, or ring 0
        device = _register(folder, ports, name, fleet, mode, ring, trust, say)
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


def _register(
    folder: SandboxFolder,
    ports: Ports,
    name: str,
    fleet: str,
    mode: str,
    ring: int | None,
    trust: TrustDocument | None,
    say: Callable[[str], None],
) -> Device:
    if any(device.name == name for device in registered(folder)):
        raise Conflict(
            f"Device {name} is registered already.", f"Use another name, or 'hybridge sandbox device remove {name}'."
        )
    home = folder.device(name)
    if home.exists():  # of an add or a remove that was interrupted: nothing of it may come back to life
        say(f"clearing what an interrupted command left of {name}")
        _forget(folder, ports, name)
    with session.using(account_environment(ports)):
        if things.ensure_fleet(fleet):
            say(f"there was no fleet {fleet}: making it")
    say(f"registering {name} in {fleet}")
    device = Device(name, fleet, enrol(folder, ports, name, fleet, ring, mode, trust), mode)
    device.write(folder)  # the keeper starts what has a device.json
    return device


@contextmanager
def _alone(folder: SandboxFolder) -> Iterator[None]:
    """Wait until no other command adds or removes a device of this sandbox."""
    descriptor = os.open(folder.devices_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def enrol(
    folder: SandboxFolder,
    ports: Ports,
    name: str,
    fleet: str,
    ring: int | None,
    mode: str,
    trust: TrustDocument | None = None,
) -> int:
    """Make the account know a device, as ``hybridge fleet enroll`` does; it may know it already. Returns its ring."""
    with session.using(account_environment(ports)):
        return things.enrol(ports, folder.device(name), name, fleet, ring, mode, trust)


def enrol_all(folder: SandboxFolder, ports: Ports) -> None:
    """Make the account know every registered device, and the one client that replays recordings."""
    with session.using(account_environment(ports)):
        for fleet in sorted({device.fleet for device in registered(folder)}):
            things.ensure_fleet(fleet)
        things.identify(ports, folder.sensors, things.SENSORS)
    for device in registered(folder):
        enrol(folder, ports, device.name, device.fleet, device.ring, device.mode)


def remove(folder: SandboxFolder, ports: Ports, name: str) -> None:
    """Stop a device, take it out of the account and remove its folder.

    Raises:
        ModelNotFound: no such device. Unavailable: its processes did not end.
    """
    home = folder.device(names.thing_name(name))
    described, removed = home / "device.json", home / "device.json.removed"
    with _alone(folder):
        if described.exists():
            durable.rename(described, removed)  # the keeper stops what has none
        elif not removed.exists():  # else: a remove that was interrupted is ended
            raise ModelNotFound(f"There is no device {name}.", "See 'hybridge sandbox device list'.")
        if not processes.wait_until(lambda: process(folder, name) is None, STOP_SECONDS):
            durable.rename(removed, described)
            raise Unavailable(
                f"Device {name} did not stop in {STOP_SECONDS:.0f} s.", "Look at 'hybridge sandbox status'."
            )
        _forget(folder, ports, name)


def _forget(folder: SandboxFolder, ports: Ports, name: str) -> None:
    """Take a device that does not run out of the account, and remove its folders; parts may be gone already."""
    home = folder.device(name)
    with session.using(account_environment(ports)):
        enrolment.revoke(name)
    greengrass = provision.session().client("greengrassv2", endpoint_url=provision.control_endpoint(ports))
    try:
        greengrass.delete_core_device(coreDeviceThingName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    remove_sockets(home)
    shutil.rmtree(home)


def remove_sockets(home: Path) -> None:
    """Remove what a device that does not run has outside its folder: the private folders of its sockets."""
    for mode in Mode:
        socket = Layout(home.resolve(), limits_of(mode).socket_name).socket()
        shutil.rmtree(runtime.of_nucleus(str(socket)))
        if not socket.is_relative_to(home.resolve()):
            shutil.rmtree(socket.parent, ignore_errors=True)  # both modes have one
