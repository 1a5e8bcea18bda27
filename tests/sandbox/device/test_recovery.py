"""A core device as its own process, killed without warning, started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybridge_cloud.sandbox.device.mode import Mode

Launch = Callable[..., "subprocess.Popen[str]"]


def command(root: Path, thing: str, mode: Mode = Mode.CLASSIC) -> list[str]:
    module = [sys.executable, "-m", "hybridge_cloud.sandbox.device"]
    return [*module, "--root", str(root), "--thing", thing, "--mode", mode]


@pytest.fixture
def launch(account: Any, private: Path) -> Iterator[Launch]:
    """Start a core device's process; it is ended, in order, with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(root: Path, thing: str) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(command(root, thing), stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
            assert process.wait(30) == 0
        assert process.stderr is not None
        process.stderr.close()


def tree(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def kill(*processes: Any) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def test_orphans_of_a_killed_nucleus_are_stopped_and_the_components_run_again(
    account: Any, launch: Launch, private: Path, wait_until: Any
) -> None:
    group = account.group()
    thing = account.enrol(private, group)
    # One process stays in its group without the environment, one leaves the group.
    script = "env -i sh -c 'while :; do sleep 600; done' & setsid sleep 601 & echo up; wait"
    account.publish("Rec.Orphans", "1.0.0", script)
    device = launch(private, thing)
    assert account.outcome(thing, account.deploy(group, {"Rec.Orphans": "1.0.0"}))[0] == "SUCCEEDED"
    orphans = wait_until(lambda: len(tree(device)) >= 4 and tree(device))
    kill(device)
    device.wait()
    assert all(orphan.is_running() for orphan in orphans), "the test must leave orphans"
    log = private / "logs" / "Rec.Orphans.log"
    device = launch(private, thing)
    wait_until(lambda: log.read_text() == "up\nup\n")
    assert not any(orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE for orphan in orphans)
    new = wait_until(lambda: len(tree(device)) >= 4 and tree(device))
    device.terminate()
    assert device.wait(30) == 0
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in new)


@pytest.mark.parametrize("moment", ["install", "run"])
def test_a_whole_tree_killed_in_a_deployment_finishes_it_after_the_start(
    account: Any, launch: Launch, private: Path, wait_until: Any, moment: str
) -> None:
    group = account.group()
    thing = account.enrol(private, group)
    name = f"Rec.{moment.title()}"
    # The named step says that it began, and holds the deployment up, the first time only.
    wait = "test -e {work:path}/" + moment + " || { touch {work:path}/" + moment + "; exec sleep 600; }"
    steps = {"install": "echo install", "run": "echo run; sleep 600"}
    steps[moment] = f"echo {moment} began; {wait}; {steps[moment]}"
    account.publish(name, "1.0.0", steps)
    account.publish(f"{name}.After", "1.0.0", {"install": "sleep 0.3", "run": "echo after"})
    device = launch(private, thing)
    deployment = account.deploy(group, {name: "1.0.0", f"{name}.After": "1.0.0"})
    log = private / "logs" / f"{name}.log"
    wait_until(lambda: log.exists() and f"{moment} began" in log.read_text())
    kill(device, *tree(device))
    device.wait()
    launch(private, thing)
    assert account.outcome(thing, deployment) == ("SUCCEEDED", "SUCCESSFUL")
    wait_until(lambda: log.read_text().endswith("run\n"))
    assert account.installed(thing)[name] == ("1.0.0", "RUNNING")


def test_one_root_runs_one_device(account: Any, launch: Launch, private: Path, wait_until: Any) -> None:
    thing = account.enrol(private)
    launch(private, thing)
    wait_until((private / "ipc.socket").exists)
    second = launch(private, thing)
    _, said = second.communicate(timeout=30)
    assert second.returncode == 1
    assert said.count("\n") == 1
    assert "already runs" in said


def test_a_damaged_state_file_is_refused_in_a_sentence(account: Any, launch: Launch, private: Path) -> None:
    (private / "state.json").write_text("{")
    device = launch(private, "thing-x")
    _, said = device.communicate(timeout=30)
    assert device.returncode == 1
    assert said.count("\n") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(("mode", "environment"), [("turbo", {}), ("classic", {"AWS_ENDPOINT_URL_GREENGRASSV2": ""})])
def test_a_wrong_call_is_a_usage_error(private: Path, mode: str, environment: dict[str, str]) -> None:
    call = [*command(private, "thing-y")[:-1], mode]
    answer = subprocess.run(call, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr


def test_a_root_with_a_long_path_gets_a_short_stable_socket(tmp_path: Path) -> None:
    from hybridge_cloud.sandbox.device.layout import Layout

    root = tmp_path / ("long" * 25)
    first, second = Layout(root, "gg-ipc.socket").socket(), Layout(root, "gg-ipc.socket").socket()
    assert first == second
    assert len(str(first)) < 100
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert Layout(Path("/r"), "ipc.socket").socket() == Path("/r/ipc.socket")
    first.parent.rmdir()
