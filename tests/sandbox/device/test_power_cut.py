"""The power goes at every durable step of a deployment: after the next start the device ends it, whole.

A few points are taken in CI. All of them on both nuclei, a minute: HYBRIDGE_TEST_KILLS=all.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
BAD = {"install": "exit 3", "run": "echo never"}
STEPS = {"install": "echo install $V", "run": "echo run $V; cat {artifacts:decompressedPath}/bundle/a; exec sleep 600"}

_numbers = itertools.count(1)


class Machine:
    """A device's process, whose power a test cuts; started again in the same root."""

    def __init__(self, account: Any, root: Path, mode: Mode, limits: Limits) -> None:
        self.account, self.root, self.mode, self.limits = account, root, mode, limits
        self.name = f"Cut.{mode.name.title()}{next(_numbers)}"
        self.group = account.group()
        self.thing = account.enrol(root, self.group)
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
        told = Path(f"{os.environ[failpoint.VARIABLE]}.{self.process.pid}")
        told.write_text(point)
        deployment = self.deploy(steps)
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.join(SECONDS)
        assert self.process.exitcode == KILLED, f"{point} was not reached"
        psutil.wait_procs(below, 5)
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below)
        told.unlink()
        return deployment

    def placed(self) -> str:
        state = json.loads((self.root / "state.json").read_text())
        return str(state["current"]["components"][self.name]["version"])

    def log(self) -> str:
        return (self.root / "logs" / f"{self.name}.log").read_text()

    def leftovers(self) -> list[str]:
        packages = self.root / "packages"
        return [str(path.relative_to(packages)) for path in packages.rglob("*.part")]


EVERYWHERE = os.environ.get("HYBRIDGE_TEST_KILLS") == "all"
IN_CI = {
    Mode.CLASSIC: ("artifact.part-written", "archive.placed", "deployment.stopped", "deployment.ended"),
    Mode.LITE: ("artifact.placed", "recipe.written", "deployment.committed", "artifacts.removed"),
}
ROLLED_BACK = failpoint.ROLLBACK_POINTS if EVERYWHERE else ("rollback.committed",)


@pytest.fixture
def machines(
    account: Any, private: Path, monkeypatch: pytest.MonkeyPatch, limits: Callable[[Mode], Limits]
) -> Iterator[Callable[[Mode], Machine]]:
    # The fork server keeps the environment it began with, so this is the same for all machines of a run.
    monkeypatch.setenv(failpoint.VARIABLE, str(Path(tempfile.gettempdir()) / f"hybridge-failpoint-{os.getpid()}"))
    made: list[Machine] = []

    def make(mode: Mode) -> Machine:
        root = private / str(len(made))
        root.mkdir()
        made.append(Machine(account, root, mode, replace(limits(mode), running_after=0.05)))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_deployment_ends_whole_wherever_the_power_was_cut(
    machines: Callable[[Mode], Machine], wait_until: Any
) -> None:
    work = [(machines(mode), failpoint.DEPLOYMENT_POINTS if EVERYWHERE else IN_CI[mode]) for mode in Mode]
    with ThreadPoolExecutor(len(work)) as pool:
        for _ in pool.map(lambda one: _cut_at_each(*one, wait_until), work):
            pass


def _cut_at_each(machine: Machine, points: Sequence[str], wait_until: Any) -> None:
    machine.start()
    assert machine.account.outcome(machine.thing, machine.deploy()) == ("SUCCEEDED", "SUCCESSFUL")
    for point in points:
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


def test_a_failed_deployment_is_rolled_back_on_classic_wherever_the_power_was_cut(
    machines: Callable[[Mode], Machine], wait_until: Any
) -> None:
    machine = machines(Mode.CLASSIC)
    machine.start()
    assert machine.account.outcome(machine.thing, machine.deploy())[0] == "SUCCEEDED"
    for point in ROLLED_BACK:
        deployment = machine.dies_at(point, BAD)
        machine.start()
        assert machine.account.outcome(machine.thing, deployment)[0] == "FAILED", point
        assert machine.placed() == "1.0.0"
        wait_until(lambda: machine.log().endswith("run 1.0.0\none 1.0.0\n"))
        wait_until(lambda: machine.account.installed(machine.thing)[machine.name] == ("1.0.0", "RUNNING"))


def test_a_failed_deployment_stays_on_lite_also_over_a_power_cut(
    machines: Callable[[Mode], Machine], wait_until: Any
) -> None:
    machine = machines(Mode.LITE)
    machine.start()
    assert machine.account.outcome(machine.thing, machine.deploy())[0] == "SUCCEEDED"
    deployment = machine.dies_at("deployment.judged", BAD)
    machine.start()
    assert machine.account.outcome(machine.thing, deployment)[0] == "FAILED"
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
