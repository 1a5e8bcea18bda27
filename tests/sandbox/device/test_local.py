"""Local deployments, as the command lines and the unmodified SDK ask for them, on devices without a cloud."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from awsiot.greengrasscoreipc import model

from hybridge_cloud.sandbox.device.hosted import HostedCore, wait_for
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_cloud.sandbox.device.processes import start_time
from hybridge_cloud.sandbox.device.testing import both_cores, core_device  # noqa: F401  fixtures

LONG = "echo up; exec sleep 600"


def recipe(name: str, version: str = "1.0.0", run: str = LONG, more: str = "", artifacts: str = "") -> str:
    return f"""ComponentName: {name}
ComponentVersion: "{version}"
{more}
Manifests:
  - Platform: {{os: linux, runtime: "*"}}
    Artifacts: [{artifacts}]
    Lifecycle: {{run: "{run}"}}
"""


@pytest.fixture
def core(both_cores: HostedCore) -> HostedCore:  # noqa: F811
    return both_cores


def folder(path: Path, *texts: str) -> Path:
    path.mkdir()
    for number, text in enumerate(texts):
        (path / f"{number}.yaml").write_text(text)
    return path


def test_components_come_in_order_stay_beside_later_ones_and_go(core: HostedCore, tmp_path: Path) -> None:
    base = recipe("L.Base")
    needs = 'ComponentDependencies: {L.Base: {VersionRequirement: ">=1.0.0 <2.0.0", DependencyType: HARD}}'
    top = recipe("L.Top", run="echo top; exec sleep 600", more=needs)
    deployed = core.deploy(folder(tmp_path / "r", base, recipe("L.Base", "2.0.0"), top), roots={"L.Top": "1.0.0"})
    assert deployed.succeeded, deployed.reason
    assert core.core.installed() == {"L.Base": "1.0.0", "L.Top": "1.0.0"}, "the newest version within the range"
    assert core.deploy(recipe("L.Beside")).succeeded
    assert core.status("L.Top") == "RUNNING"
    assert core.log("L.Top") == "top\n"
    assert core.remove("L.Top").succeeded
    assert core.core.installed() == {"L.Beside": "1.0.0"}
    assert not list(core.root.glob("packages/recipes/L.Top*"))


def test_configuration_is_merged_and_reset_and_the_component_runs_again(core: HostedCore) -> None:
    more = 'ComponentConfiguration: {DefaultConfiguration: {a: "1", b: {c: "2"}}}'
    text = recipe("L.Set", run="echo a={configuration:/a} c={configuration:/b/c}; exec sleep 600", more=more)
    assert core.deploy(text).succeeded
    assert core.deploy(text, merge={"L.Set": {"b": {"c": "3"}}}).succeeded
    assert core.deploy(text, merge={"L.Set": {"a": "9"}}, reset={"L.Set": ["/b/c"]}).succeeded
    core.wait_for_log("L.Set", "a=9 c=2")
    assert core.log("L.Set") == "a=1 c=2\na=1 c=3\na=9 c=2\n"
    assert core.configuration("L.Set") == {"a": "9", "b": {"c": "2"}}


def test_archives_are_unpacked_and_checked_on_classic_and_left_alone_on_lite(core: HostedCore, tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("inside.txt", "x")
    place = tmp_path / "artifacts" / "L.Zip" / "1.0.0"
    place.mkdir(parents=True)
    (place / "parcel.zip").write_bytes(data.getvalue())
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    plain = '{Uri: "s3://any/parcel.zip", Unarchive: ZIP}'
    text = recipe("L.Zip", artifacts=plain, run="ls -R {artifacts:decompressedPath}; exec sleep 600")
    assert core.deploy(text, artifacts=tmp_path / "artifacts").succeeded
    core.wait_for_status("L.Zip", "RUNNING")
    wait_for(lambda: core.log("L.Zip"), "the listing")
    assert ("inside.txt" in core.log("L.Zip")) == (core.mode is Mode.CLASSIC)
    altered = text.replace("Unarchive: ZIP", f"Unarchive: ZIP, Algorithm: SHA-256, Digest: {wrong!r}")
    assert core.deploy(altered, artifacts=tmp_path / "artifacts").succeeded == (core.mode is Mode.LITE)


def test_a_failed_deployment_is_rolled_back_on_classic_alone(core: HostedCore) -> None:
    assert core.deploy(recipe("L.Fails")).succeeded
    bad = recipe("L.Fails", "2.0.0").replace("Lifecycle: {", 'Lifecycle: {install: "exit 3", ')
    deployed = core.deploy(bad)
    assert not deployed.succeeded
    assert "exit code 3" in deployed.reason
    if core.mode is Mode.CLASSIC:
        core.wait_for_status("L.Fails", "RUNNING")
        assert core.core.installed() == {"L.Fails": "1.0.0"}
    else:
        assert core.status("L.Fails") == "BROKEN"
        assert core.deploy(recipe("L.Other")).reason.startswith("L.Fails is BROKEN")


def test_deployments_wait_for_each_other(core: HostedCore) -> None:
    slow = recipe("L.Slow").replace("Lifecycle: {", 'Lifecycle: {install: "sleep 0.5; date +%s.%N", ')
    quick = recipe("L.Quick", run="date +%s.%N; exec sleep 600")
    ended: list[str] = []
    first = threading.Thread(target=lambda: ended.append(f"slow {core.deploy(slow).succeeded}"))
    first.start()
    wait_for(lambda: core.status("L.Slow") != "NEW" or "L.Slow" in core.core.installed(), "the first one's start")
    ended.append(f"quick {core.deploy(quick).succeeded}")
    first.join()
    assert sorted(ended) == ["quick True", "slow True"]
    core.wait_for_log("L.Quick", ".")
    assert float(core.log("L.Slow").split()[0]) < float(core.log("L.Quick").split()[0])


def test_the_sdk_deploys_and_restarts_with_a_policy_and_not_without(core: HostedCore, tmp_path: Path) -> None:
    policy = """ComponentConfiguration:
  DefaultConfiguration:
    accessControl:
      aws.greengrass.Cli:
        one: {operations: ["aws.greengrass#CreateLocalDeployment"], resources: ["*"]}
        two: {operations: ["aws.greengrass#RestartComponent"], resources: ["L.*"]}
"""
    assert core.deploy(folder(tmp_path / "r", recipe("L.May", more=policy), recipe("L.Not"))).succeeded
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "L.New-1.0.0.yaml").write_text(recipe("L.New"))
    request = {
        "root_component_versions_to_add": {"L.New": "1.0.0"},
        "recipe_directory_path": str(tmp_path / "given"),
        "component_to_configuration": {"L.New": {"MERGE": {"x": "1"}}},
    }
    client, stranger = core.client("L.May"), core.client("L.Not")
    try:
        assert client.create_local_deployment(**request).deployment_id
        core.wait_for_status("L.New", "RUNNING")
        assert core.configuration("L.New") == {"x": "1"}
        assert client.restart_component(component_name="L.New").restart_status == "SUCCEEDED"
        wait_for(lambda: core.log("L.New") == "up\nup\n", "the second life")
        core.wait_for_status("L.New", "RUNNING")
        with pytest.raises(model.ResourceNotFoundError):
            client.restart_component(component_name="L.Absent")
        for call in (
            lambda: stranger.create_local_deployment(**request),
            lambda: stranger.restart_component(component_name="L.New"),
        ):
            with pytest.raises(model.UnauthorizedError):
                call()
    finally:
        client.close()
        stranger.close()


def test_a_startup_step_keeps_what_it_started_until_the_component_stops(
    core_device: Callable[..., HostedCore],  # noqa: F811
) -> None:
    """On classic; what lite makes of it is among what was observed."""
    core = core_device("classic")
    lifecycle = "startup: 'sleep 600 & echo $!', shutdown: echo down"
    text = recipe("L.Daemon").replace('run: "' + LONG + '"', lifecycle)
    assert core.deploy(text).succeeded
    assert core.status("L.Daemon") == "RUNNING"
    child = int(core.log("L.Daemon"))
    assert start_time(child) is not None
    assert core.remove("L.Daemon").succeeded
    assert core.log("L.Daemon") == f"{child}\ndown\n"
    assert start_time(child) is None


@pytest.mark.parametrize("broken", ["folder", "version"])
def test_a_wrong_request_fails_with_a_reason(core: HostedCore, tmp_path: Path, broken: str) -> None:
    wanted: Any = {"roots": {"L.None": "1.0.0"}} if broken == "version" else {"artifacts": tmp_path / "absent"}
    artifact = '{Uri: "s3://any/absent.bin"}'
    deployed = core.deploy(recipe("L.One", artifacts=artifact), **wanted)
    if broken == "version":
        assert "no candidate" in deployed.reason
    else:
        assert deployed.succeeded == (core.mode is Mode.LITE), "lite does not look for artifacts that are not there"
