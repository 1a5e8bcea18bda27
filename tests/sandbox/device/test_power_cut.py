"""The power goes at every durable step of a deployment: after the next start the device ends it, whole."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import hybridge_cloud.sandbox.device
from hybridge_cloud.sandbox.device import failpoint
from hybridge_cloud.sandbox.device.__main__ import serve
from hybridge_cloud.sandbox.device.mode import Limits, Mode

KILLED = -9
SECONDS = 30
STEPS = {"install": "echo install $V", "run": "echo run $V; cat {artifacts:decompressedPath}/bundle/a; exec sleep 600"}

_numbers = itertools.count(1)


class Machine:
    """A device's process, whose power a test cuts; started again in the same root."""

    def __init__(self, account: Any, root: Path, mode: Mode, limits: Limits) -> None:
        self.account, self.root, self.mode, self.limits = account, root, mode, limits
        self.name = f"Cut.{mode.name.title()}{next(_numbers)}"
        self.group = account.group()
        self.thing = account.enrol(root, self.group)
        self.point = root / "failpoint"
        self.process: Any = None
        self.version = 0

    def start(self) -> None:
        # Forked from a process that has everything imported: a start takes a tenth of a second.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["hybridge_cloud.sandbox.device.core", "boto3", "yaml", "paho.mqtt.client"])
        endpoint = os.environ["AWS_ENDPOINT_URL_GREENGRASSV2"]
        arguments = (self.root.resolve(), self.thing, self.mode, self.limits, endpoint)
        self.process = context.Process(target=serve, args=arguments)
        self.process.start()

    def stop(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.terminate()
            self.process.join(SECONDS)
            assert self.process.exitcode == 0

    def deploy(self, steps: dict[str, str] | None = None) -> str:
        self.version += 1
        number = f"{self.version}.0.0"
        wanted = {key: f"V={number}; {script}" for key, script in (steps or STEPS).items()}
        files = {"a": f"one {number}\n", "b": f"two {number}\n"}
        self.account.publish(self.name, number, wanted, files=files)
        return str(self.account.deploy(self.group, {self.name: number}))

    def dies_at(self, point: str, steps: dict[str, str] | None = None) -> str:
        """Deploy the next version with the power cut at a point; returns the deployment."""
        self.point.write_text(point)
        deployment = self.deploy(steps)
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.join(SECONDS)
        assert self.process.exitcode == KILLED, f"{point} was not reached"
        psutil.wait_procs(below, 5)
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below)
        self.point.unlink()
        return deployment

    def placed(self) -> str:
        state = json.loads((self.root / "state.json").read_text())
        return str(state["current"]["components"][self.name]["version"])

    def log(self) -> str:
        return (self.root / "logs" / f"{self.name}.log").read_text()

    def leftovers(self) -> list[str]:
        packages = self.root / "packages"
        return [str(path.relative_to(packages)) for path in packages.rglob("*.part")]


@pytest.fixture(params=list(Mode))
def machine(
    request: pytest.FixtureRequest,
    account: Any,
    private: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: Callable[[Mode], Limits],
) -> Iterator[Machine]:
    one = Machine(account, private, request.param, limits(request.param))
    # The fork server keeps the environment it began with: the file's path is the same for all devices of a run.
    path = Path("/tmp") / f"hybridge-failpoint-{psutil.Process().pid}"
    one.point = path
    monkeypatch.setenv(failpoint.VARIABLE, str(path))
    path.unlink(missing_ok=True)
    yield one
    path.unlink(missing_ok=True)
    one.stop()


def test_a_deployment_ends_whole_wherever_the_power_was_cut(machine: Machine, wait_until: Any) -> None:
    machine.start()
    assert machine.account.outcome(machine.thing, machine.deploy()) == ("SUCCEEDED", "SUCCESSFUL")
    for point in failpoint.DEPLOYMENT_POINTS:
        before, after = f"{machine.version}.0.0", f"{machine.version + 1}.0.0"
        deployment = machine.dies_at(point)
        assert machine.placed() in (before, after), point
        machine.start()
        assert machine.account.outcome(machine.thing, deployment) == ("SUCCEEDED", "SUCCESSFUL"), point
        said = f"run {after}\none {after}\n"
        wait_until(lambda said=said: machine.log().endswith(said))
        assert machine.placed() == after
        assert machine.leftovers() == [], point
    deployed = machine.root / "packages" / "artifacts" / machine.name
    wait_until(lambda: [path.name for path in deployed.iterdir()] == [f"{machine.version}.0.0"])


def test_a_failed_deployment_ends_as_the_nucleus_ends_it_wherever_the_power_was_cut(
    machine: Machine, wait_until: Any
) -> None:
    machine.start()
    assert machine.account.outcome(machine.thing, machine.deploy())[0] == "SUCCEEDED"
    bad = {"install": "exit 3", "run": "echo never"}
    for point in failpoint.ROLLBACK_POINTS if machine.mode is Mode.CLASSIC else ("deployment.judged",):
        deployment = machine.dies_at(point, bad)
        machine.start()
        assert machine.account.outcome(machine.thing, deployment)[0] == "FAILED", point
        if machine.mode is Mode.CLASSIC:
            assert machine.placed() == "1.0.0"
            wait_until(lambda: machine.log().endswith("run 1.0.0\none 1.0.0\n"))
            wait_until(lambda: machine.account.installed(machine.thing)[machine.name] == ("1.0.0", "RUNNING"))
        else:
            assert machine.placed() == "2.0.0"
            wait_until(lambda: machine.account.installed(machine.thing)[machine.name] == ("2.0.0", "BROKEN"))


def test_every_point_is_named_once_and_reached_somewhere() -> None:
    folder = Path(hybridge_cloud.sandbox.device.__file__).parent
    found = [
        name
        for path in folder.glob("*.py")
        for name in re.findall(r'failpoint\.reach\("([\w.-]+)"\)', path.read_text())
    ]
    assert sorted(found) == sorted((*failpoint.DEPLOYMENT_POINTS, *failpoint.ROLLBACK_POINTS))
