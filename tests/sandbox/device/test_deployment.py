"""Deployments from the real control service to a core device, in both modes."""

from __future__ import annotations

import hashlib
import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from hybridge_cloud.sandbox.device.mode import Mode

BOTH = pytest.mark.parametrize("mode", list(Mode))
Start = Callable[..., Any]
LONG = "echo up; exec sleep 600"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A component name of the test's own."""
    return "T" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


@BOTH
def test_a_set_of_components_is_brought_up_in_order_and_reported(
    account: Any, start: Start, wait_until: Any, name: str, mode: Mode
) -> None:
    group = account.group()
    server, model = f"{name}.Server", f"{name}.Model"
    script = "cat {artifacts:decompressedPath}/bundle/data/hello.txt; pwd; umask; cat installed; exec sleep 600"
    steps = {"install": "echo $AWS_IOT_THING_NAME > {work:path}/installed", "run": script}
    account.publish(server, "1.0.0", steps, files={"data/hello.txt": "hello\n"})
    account.publish(server, "1.0.1", steps, files={"data/hello.txt": "hello again\n"})
    account.publish(
        model,
        "2.0.0",
        "echo n={configuration:/n} epoch={configuration:/hybridge/epoch}",
        configuration={"n": "1"},
        dependencies={server: (">=1.0.0 <1.0.1", "HARD")},
    )
    device = start(mode, group)
    deployment = account.deploy(group, {model: ("2.0.0", {"hybridge": {"epoch": "3"}})})
    assert account.outcome(device.thing, deployment) == ("SUCCEEDED", "SUCCESSFUL")
    assert device.log(model) == "n=1 epoch=3\n"
    wait_until(lambda: device.log(server).count("\n") == 4)
    assert device.log(server).splitlines() == ["hello", f"{device.root}/work/{server}", "0022", device.thing]
    wait_until(lambda: account.installed(device.thing) == {server: ("1.0.0", "RUNNING"), model: ("2.0.0", "FINISHED")})


@BOTH
def test_an_upgrade_replaces_what_changed_alone_and_removes_the_old_artifacts(
    account: Any, start: Start, wait_until: Any, name: str, mode: Mode
) -> None:
    group = account.group()
    stays, moves, goes = f"{name}.Stays", f"{name}.Moves", f"{name}.Goes"
    for component in (stays, moves, goes):
        account.publish(component, "1.0.0", LONG, files={"x": "1"})
    account.publish(moves, "2.0.0", "echo second; exec sleep 600", files={"x": "2"})
    device = start(mode, group)
    first = account.deploy(group, {stays: "1.0.0", moves: "1.0.0", goes: "1.0.0"})
    assert account.outcome(device.thing, first)[0] == "SUCCEEDED"
    second = account.deploy(group, {stays: "1.0.0", moves: "2.0.0"})
    assert account.outcome(device.thing, second)[0] == "SUCCEEDED"
    wait_until(lambda: device.log(moves) == "up\nsecond\n")
    assert device.log(stays) == "up\n"
    wait_until(lambda: sorted(account.installed(device.thing)) == sorted([stays, moves]))
    packages = device.root / "packages"
    wait_until(lambda: sorted(path.name for path in (packages / "artifacts").iterdir()) == sorted([stays, moves]))
    assert [path.name for path in (packages / "artifacts-unarchived" / moves).iterdir()] == ["2.0.0"]


@BOTH
def test_a_change_of_configuration_installs_and_runs_again_and_the_same_again_does_not(
    account: Any, start: Start, name: str, mode: Mode
) -> None:
    group = account.group()
    account.publish(
        name, "1.0.0", {"install": "echo install", "run": "echo v={configuration:/v}"}, configuration={"v": "0"}
    )
    device = start(mode, group)
    for merge in ({"v": "1"}, {"v": "1"}, {"v": "2"}):
        assert account.outcome(device.thing, account.deploy(group, {name: ("1.0.0", merge)}))[0] == "SUCCEEDED"
    assert device.log(name) == "install\nv=1\ninstall\nv=2\n"


@BOTH
def test_an_altered_artifact_fails_the_deployment_and_what_runs_goes_on(
    account: Any, start: Start, name: str, mode: Mode
) -> None:
    group = account.group()
    account.publish(name, "1.0.0", LONG, files={"x": "1"})
    key = account.publish(name, "2.0.0", "echo never", files={"x": "2"})
    account.s3.put_object(Bucket=account.bucket, Key=key, Body=b"altered")
    device = start(mode, group)
    assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
    status, reason = account.outcome(device.thing, account.deploy(group, {name: "2.0.0"}))
    assert status == "FAILED"
    assert "digest" in reason
    assert account.installed(device.thing)[name] == ("1.0.0", "RUNNING")
    assert device.log(name) == "up\n"
    assert not list(device.root.glob(f"packages/*/{name}/2.0.0/*"))


def test_classic_restarts_the_previous_components_and_lite_does_not(
    account: Any, start: Start, wait_until: Any, name: str
) -> None:
    account.publish(name, "1.0.0", LONG, configuration={"v": "1"})
    account.publish(name, "2.0.0", {"install": "echo crashing; exit 3", "run": "echo never"})
    account.publish(name, "3.0.0", "echo repaired; exec sleep 600")
    for mode, state in ((Mode.CLASSIC, ("1.0.0", "RUNNING")), (Mode.LITE, ("2.0.0", "BROKEN"))):
        group = account.group()
        device = start(mode, group)
        assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
        status, reason = account.outcome(device.thing, account.deploy(group, {name: ("2.0.0", {"v": "2"})}))
        assert (status, "exit code 3" in reason) == ("FAILED", True)
        wait_until(lambda: account.installed(device.thing) == {name: state})  # noqa: B023  called at once
        again = "up\n" if mode is Mode.CLASSIC else ""
        wait_until(lambda: device.log(name) == "up\n" + "crashing\n" * 3 + again)  # noqa: B023
        kept = json.loads((device.root / "state.json").read_text())["current"]["components"][name]["configuration"]
        assert kept == {"v": "1" if mode is Mode.CLASSIC else "2"}
        # Only a new deployment repairs it on lite.
        assert account.outcome(device.thing, account.deploy(group, {name: "3.0.0"}))[0] == "SUCCEEDED"


def test_classic_keeps_the_failed_set_when_the_policy_says_do_nothing(account: Any, start: Start, name: str) -> None:
    group = account.group()
    account.publish(name, "1.0.0", LONG)
    account.publish(name, "2.0.0", {"install": "exit 3"})
    device = start(Mode.CLASSIC, group)
    assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
    assert account.outcome(device.thing, account.deploy(group, {name: "2.0.0"}, "DO_NOTHING"))[0] == "FAILED"
    assert json.loads((device.root / "state.json").read_text())["current"]["components"][name]["version"] == "2.0.0"


def test_a_run_step_that_crashes_is_a_success_to_classic_and_a_failure_to_lite(
    account: Any, start: Start, name: str
) -> None:
    account.publish(name, "1.0.0", "exit 3")
    for mode, wanted in ((Mode.CLASSIC, "SUCCEEDED"), (Mode.LITE, "FAILED")):
        group = account.group()
        device = start(mode, group)
        assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == wanted


@BOTH
def test_a_broken_component_fails_every_later_deployment_of_anything(
    account: Any, start: Start, wait_until: Any, name: str, mode: Mode
) -> None:
    broken_group, other_group = account.group(), account.group()
    account.publish(f"{name}.Broken", "1.0.0", "test ! -e now && exec sleep 600; exit 1")
    account.publish(f"{name}.Other", "1.0.0", "true")
    device = start(mode, broken_group, other_group)
    first = account.deploy(broken_group, {f"{name}.Broken": "1.0.0"})
    assert account.outcome(device.thing, first)[0] == "SUCCEEDED"
    (device.root / "work" / f"{name}.Broken" / "now").touch()
    device = start(mode, again=device)
    wait_until(lambda: account.installed(device.thing).get(f"{name}.Broken") == ("1.0.0", "BROKEN"))
    status, reason = account.outcome(device.thing, account.deploy(other_group, {f"{name}.Other": "1.0.0"}))
    assert status == "FAILED"
    assert f"{name}.Broken is BROKEN" in reason


@BOTH
def test_one_component_at_two_targets_of_a_device_is_a_conflict(
    account: Any, start: Start, name: str, mode: Mode
) -> None:
    first, second = account.group(), account.group()
    account.publish(name, "1.0.0", LONG)
    account.publish(name, "2.0.0", LONG)
    device = start(mode, first, second)
    assert account.outcome(device.thing, account.deploy(first, {name: "1.0.0"}))[0] == "SUCCEEDED"
    status, reason = account.outcome(device.thing, account.deploy(second, {name: "2.0.0"}))
    assert status == "FAILED"
    assert first in reason
    assert second in reason
    assert account.installed(device.thing)[name] == ("1.0.0", "RUNNING")


def test_a_script_that_lite_would_cut_fails_there_before_anything_stops(account: Any, start: Start, name: str) -> None:
    account.publish(name, "1.0.0", LONG)
    account.publish(name, "2.0.0", "X=1; echo ${X}; exec sleep 600")
    for mode, wanted in ((Mode.LITE, "FAILED"), (Mode.CLASSIC, "SUCCEEDED")):
        group = account.group()
        device = start(mode, group)
        assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
        status, reason = account.outcome(device.thing, account.deploy(group, {name: "2.0.0"}))
        assert status == wanted, reason
        if mode is Mode.LITE:
            assert "cut a script" in reason
            assert account.installed(device.thing)[name] == ("1.0.0", "RUNNING")


@pytest.mark.parametrize("entry", ["../escaped", "/absolute", "a/../../escaped"])
def test_an_archive_that_would_leave_its_folder_is_refused(account: Any, start: Start, name: str, entry: str) -> None:
    group = account.group()
    account.publish(name, "1.0.0", LONG, files={entry: "x"})
    device = start(Mode.CLASSIC, group)
    status, reason = account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))
    assert (status, "unsafe entry" in reason) == ("FAILED", True)
    assert not list(Path(device.root.parent).rglob("*escaped*"))


def test_a_component_that_cannot_be_resolved_fails_the_deployment(account: Any, start: Start, name: str) -> None:
    group = account.group()
    account.publish(name, "1.0.0", LONG, dependencies={f"{name}.Missing": (">=1.0.0", "SOFT")})
    device = start(Mode.LITE, group)
    status, reason = account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))
    assert status == "FAILED"
    assert f"{name}.Missing" in reason


@BOTH
def test_finished_components_run_again_when_the_device_starts_again(
    account: Any, start: Start, wait_until: Any, name: str, mode: Mode
) -> None:
    group = account.group()
    account.publish(name, "1.0.0", {"install": "echo install", "run": "echo run"})
    device = start(mode, group)
    assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
    device = start(mode, again=device)
    wait_until(lambda: device.log(name) == "install\nrun\nrun\n")


def test_a_device_hears_of_a_deployment_made_while_it_was_away(account: Any, start: Start, name: str) -> None:
    group = account.group()
    account.publish(name, "1.0.0", "true")
    device = start(Mode.CLASSIC, group)
    device.stop()
    deployment = account.deploy(group, {name: "1.0.0"})
    device = start(Mode.CLASSIC, again=device)
    assert account.outcome(device.thing, deployment)[0] == "SUCCEEDED"


def test_a_deployment_says_for_how_long_components_are_asked_and_whether(
    account: Any, start: Start, wait_until: Any, name: str
) -> None:
    """A component that subscribes to updates and never answers holds one up for the policy's time, and no longer."""
    group = account.group()
    account.publish(name, "1.0.0", "echo $SVCUID; exec sleep 600")
    account.publish(f"{name}.Other", "1.0.0", "true")
    account.publish(f"{name}.Last", "1.0.0", "true")
    device = start(Mode.CLASSIC, group)
    assert account.outcome(device.thing, account.deploy(group, {name: "1.0.0"}))[0] == "SUCCEEDED"
    token = wait_until(lambda: device.log(name).strip())
    asked: queue.Queue[Any] = queue.Queue()
    client = GreengrassCoreIPCClientV2(connect(ipc_socket=str(device.core.device.socket), authtoken=token, timeout=10))
    try:
        client.subscribe_to_component_updates(on_stream_event=asked.put)
        policy = {"componentUpdatePolicy": {"timeoutInSeconds": 1, "action": "NOTIFY_COMPONENTS"}}
        began = time.monotonic()
        first = account.deploy(group, {name: "1.0.0", f"{name}.Other": "1.0.0"}, policies=policy)
        assert account.outcome(device.thing, first)[0] == "SUCCEEDED"
        assert time.monotonic() - began >= 1
        assert asked.get(timeout=10).pre_update_event.deployment_id == first
        assert asked.get(timeout=10).post_update_event.deployment_id == first
        policy = {"componentUpdatePolicy": {"timeoutInSeconds": 600, "action": "SKIP_NOTIFY_COMPONENTS"}}
        last = account.deploy(group, {name: "1.0.0", f"{name}.Last": "1.0.0"}, policies=policy)
        assert account.outcome(device.thing, last)[0] == "SUCCEEDED"
        assert asked.get(timeout=10).pre_update_event is None
    finally:
        client.close()
