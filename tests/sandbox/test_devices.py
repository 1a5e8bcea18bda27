"""A real core device of the sandbox: added, deployed to, killed, removed."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.aws import iot, session
from hybridge_cloud.fleet import logs
from hybridge_cloud.sandbox import devices, lifecycle, processes
from hybridge_cloud.sandbox.folder import Ports, Recorded, SandboxFolder, environment
from hybridge_cloud.sandbox.lifecycle import RunningSandbox, running
from hybridge_edge.contract.errors import Conflict, InvalidName, ModelNotFound, Refused, UsageError

GROUP = "arn:aws:iot:us-east-1:000000000000:thinggroup/shop-r0"


def effective(greengrass: Any, thing: str) -> list[str]:
    listed = greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
    return [entry["coreDeviceExecutionStatus"] for entry in listed]


def running_state(greengrass: Any, thing: str) -> list[tuple[str, str]]:
    listed = greengrass.list_installed_components(coreDeviceThingName=thing)["installedComponents"]
    return [(entry["componentName"], entry["lifecycleState"]) for entry in listed]


def ipc_socket(process: Recorded) -> Path | None:
    """The IPC socket that a component was given; None for a process that is no component."""
    prefix = f"{processes.IPC_VARIABLE}="
    variables = Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
    return next((Path(value.removeprefix(prefix)) for value in variables if value.startswith(prefix)), None)


def groups_of(ports: Ports, thing: str) -> list[str]:
    with session.using(environment(ports)):
        return list(iot.groups_of(thing))


def logged(ports: Ports, thing: str) -> set[str]:
    """What a device's own process has sent to the account's CloudWatch Logs."""
    now = time.time_ns() // 1_000_000
    with session.using(environment(ports)):
        try:
            return {line.text for line in logs.tail(logs.Query(thing), now - 120_000, now + 1)}
        except Refused:
            return set()


def components(folder: SandboxFolder) -> list[Recorded]:
    return [process for process in processes.belonging(folder) if ipc_socket(process) is not None]


def test_a_device_is_added_deployed_to_killed_and_removed(
    make_clients: Callable[[RunningSandbox], Callable[[str], Any]], make_recipe: Callable[..., bytes]
) -> None:
    said: list[str] = []
    # A name with spaces, and too long for a Unix socket below it.
    with tempfile.TemporaryDirectory(prefix="hyb") as made, running(Path(made) / ("long name " * 12)) as sandbox:
        folder, ports = sandbox.folder, sandbox.ports
        greengrass = make_clients(sandbox)("greengrassv2")
        added = devices.add(folder, ports, "till", "shop", "classic", None, None, said.append)
        assert (added.ring, added.groups) == (0, ("shop-r0",))
        assert said
        assert greengrass.get_core_device(coreDeviceThingName="till")["status"] == "HEALTHY"
        with pytest.raises(Conflict):
            devices.add(folder, ports, "till", "shop", "classic", None, None, said.append)

        recipe = make_recipe("tests.Long", "1.0.0").replace(b"echo up", b"cd '{work:path}' && echo up; exec sleep 600")
        greengrass.create_component_version(inlineRecipe=recipe)
        greengrass.create_deployment(targetArn=GROUP, components={"tests.Long": {"componentVersion": "1.0.0"}})
        assert processes.wait_until(lambda: effective(greengrass, "till") == ["SUCCEEDED"], 30)
        assert processes.wait_until(lambda: running_state(greengrass, "till") == [("tests.Long", "RUNNING")], 10)

        before = devices.process(folder, "till")
        (component,) = components(folder)
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        assert processes.wait_until(lambda: devices.process(folder, "till") not in (None, before), 20)
        assert processes.wait_until(lambda: [one for one in components(folder) if one != component] != [], 20)
        assert not processes.alive(component)

        (component,) = components(folder)
        ipc = ipc_socket(component)
        assert ipc is not None
        sockets = [Path(devices.environment(folder, "till")["HYBRIDGE_RUNTIME_DIR"]), ipc.parent]
        assert all(one.is_dir() and not one.is_relative_to(folder.root) for one in sockets)
        assert processes.wait_until(lambda: "up" in logged(ports, "till"), 20)
        (folder.device("till") / "device.json").rename(folder.device("till") / "device.json.removed")  # and killed
        devices.remove(folder, ports, "till")
        assert devices.registered(folder) == []
        assert not any(one.exists() for one in sockets)
        assert not folder.device("till").exists()

        left = folder.device("till")  # of an add that was killed
        left.mkdir()
        (left / "state.json").write_text("of an earlier life")
        devices.add(folder, ports, "till", "shop", "lite", 2, None, said.append)
        assert groups_of(ports, "till") == ["shop-r2"]
        assert not any(b"earlier" in file.read_bytes() for file in left.glob("state.json"))
        devices.remove(folder, ports, "till")
        assert components(folder) == []
        assert [entry["coreDeviceThingName"] for entry in greengrass.list_core_devices()["coreDevices"]] == []
        with pytest.raises(ModelNotFound):
            devices.remove(folder, ports, "till")
    assert lifecycle.status(folder).processes == {}


@pytest.mark.parametrize(
    ("name", "fleet", "mode", "ring", "kind"),
    [
        ("a b", "shop", "classic", None, InvalidName),
        ("till", "shop/1", "classic", None, InvalidName),
        ("till", "shop", "full", None, UsageError),
        ("till", "shop", "lite", 4, UsageError),
    ],
)
def test_a_device_that_cannot_be_is_refused_before_anything_is_made(
    sandbox: RunningSandbox, name: str, fleet: str, mode: str, ring: int | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        devices.add(sandbox.folder, sandbox.ports, name, fleet, mode, ring, None, lambda _line: None)
    assert list(sandbox.folder.devices.iterdir()) == []
