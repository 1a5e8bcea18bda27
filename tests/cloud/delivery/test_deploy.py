"""Deployments: only what is named changes, each device gets a stated end, a model counts when the device says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud import follow, registry
from hybridge_cloud import publish as publishing
from hybridge_cloud.aws import greengrass, iot, session
from hybridge_cloud.aws.greengrass import Execution, Wanted
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components import build
from hybridge_cloud.components import publish as components
from hybridge_cloud.components.checkout import component_version
from hybridge_cloud.deploy import Deployed, RingDeployment, Setting, Target, deploy, revised
from hybridge_cloud.fleet import membership, record
from hybridge_cloud.fleet.membership import enrol, ensure_fleet
from hybridge_cloud.fleet.record import FleetModel
from hybridge_cloud.follow import End
from hybridge_cloud.sandbox import devices
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_edge.contract.errors import Conflict, Refused, UsageError
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.states import Mode, PackageState

SERVER, UPLINK, MODEL = "hybridge.InferenceServer", "hybridge.SampleUplink", "hybridge.model.toy"
OURS, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def change(
    before: dict[str, Wanted], *targets: str, settings: tuple[str, ...] = (), epoch: int = 7
) -> dict[str, Wanted]:
    return revised(
        before, [Target.parse(text) for text in targets], [Setting.parse(text) for text in settings],
        "hybridge", f"fleet-{epoch}", epoch, Mode.ACTIVATE,
    )  # fmt: skip


def test_only_the_named_component_changes_and_the_others_keep_their_configuration() -> None:
    before = {
        SERVER: Wanted("1.0.0", '{"tcp":"127.0.0.1:0"}', ("/old",)),
        MODEL: Wanted("1.0.0", '{"hybridge":{"epoch":"6","mode":"activate","rollout":"fleet-6"},"own":"x"}'),
        "com.example.Foreign": Wanted("3.2.1", '{"a":1}'),
    }
    after = change(before, "toy@2.0.0")
    assert {name: after[name] for name in after if name != MODEL} == {
        name: before[name] for name in before if name != MODEL
    }
    assert after[MODEL].version == "2.0.0"
    assert json.loads(after[MODEL].merge) == {
        "hybridge": {"rollout": "fleet-7", "epoch": "7", "mode": "activate"},
        "own": "x",
    }


def test_settings_are_merged_into_what_was_set_before() -> None:
    before = {SERVER: Wanted("1.0.0", '{"tcp":"127.0.0.1:0","a":{"b":"1"}}')}
    after = change(before, "SampleUplink@1.0.0", settings=("InferenceServer:a.c=2", "SampleUplink:bucket=it's {mine}"))
    assert json.loads(after[SERVER].merge) == {"tcp": "127.0.0.1:0", "a": {"b": "1", "c": "2"}}
    assert json.loads(after[UPLINK].merge) == {"bucket": "it's {mine}"}


def test_a_model_is_never_deployed_beside_no_server() -> None:
    with pytest.raises(Refused, match=r"without naming hybridge\.InferenceServer"):
        change({}, "toy@1.0.0")
    assert set(change({}, "InferenceServer@1.0.0", "toy@1.0.0")) == {SERVER, MODEL}


@pytest.mark.parametrize("text", ["toy", "@1.0.0", "toy@", "toy@1", "toy@latest"])
def test_what_names_no_version_is_refused(text: str) -> None:
    with pytest.raises((UsageError, Refused)):
        Target.parse(text)


@pytest.mark.parametrize("text", ["a=b", "A:b", "A:=c", ":a=b", "A:b..c=d", "toy:hybridge.epoch=9"])
def test_what_is_no_setting_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        Setting.parse(text)


def model_report(digest: str, state: PackageState, epoch: int, reason: str = "") -> ModelReport:
    version = "2.0.0" if digest == OURS else "1.0.0"
    return ModelReport("toy", version, digest, state, f"fleet-{epoch}", epoch, "cpu", reason)


@pytest.mark.parametrize(
    ("status", "models", "end", "said"),
    [
        (None, (), End.PENDING, "has not taken"),
        ("QUEUED", (), End.PENDING, "has not taken"),
        ("IN_PROGRESS", (), End.PENDING, "deploying"),
        ("FAILED", (model_report(OURS, PackageState.ACTIVE, 7),), End.FAILED, "FAILED: the disk"),
        ("TIMED_OUT", (), End.FAILED, "TIMED_OUT"),
        ("SUCCEEDED", None, End.PENDING, "no report of toy"),
        ("SUCCEEDED", (), End.PENDING, "no report of toy"),
        ("SUCCEEDED", (model_report(OTHER, PackageState.ACTIVE, 6),), End.PENDING, "of epoch 6"),
        ("SUCCEEDED", (model_report(OURS, PackageState.ACTIVE, 6),), End.PENDING, "of epoch 6"),
        ("SUCCEEDED", (model_report(OURS, PackageState.STAGED, 7),), End.PENDING, "STAGED"),
        ("SUCCEEDED", (model_report(OURS, PackageState.ACTIVE, 7),), End.DONE, "toy 2.0.0 active"),
        (
            "SUCCEEDED",
            (model_report(OTHER, PackageState.ACTIVE, 7), model_report(OURS, PackageState.REFUSED, 7, "golden: off")),
            End.REFUSED,
            "golden: off",
        ),
        ("SUCCEEDED", (model_report(OURS, PackageState.QUARANTINED, 7, "crashed"),), End.REFUSED, "crashed"),
        ("SUCCEEDED", (model_report(OTHER, PackageState.ACTIVE, 8),), End.FAILED, "superseded by epoch 8"),
    ],
)  # fmt: skip
def test_a_devices_end_follows_greengrass_and_then_its_own_report(
    status: str | None, models: tuple[ModelReport, ...] | None, end: End, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = (Execution("ours", "arn", status, "the disk"),) if status else (Execution("older", "arn", "SUCCEEDED"),)
    shadow = None if models is None else DeviceReport("d", 1, "0.1.0", models).to_shadow_update()
    monkeypatch.setattr(greengrass, "executions", lambda thing: ran)
    monkeypatch.setattr(iot, "named_shadow", lambda thing: shadow)
    found = follow.look("d", 0, "ours", [FleetModel("toy", "2.0.0", OURS, "fleet-7", 7)])
    assert found.end is end
    assert said in found.reason


def test_a_device_that_reports_nonsense_does_not_end_the_watch_over_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greengrass, "executions", lambda thing: (Execution("ours", "arn", "SUCCEEDED", ""),))
    good = DeviceReport("good", 1, "0.1.0", (model_report(OURS, PackageState.ACTIVE, 7),)).to_shadow_update()
    for nonsense in (b"[]", b'{"state":{}}', b'{"state":{"reported":{"format":1}}}', b"[" * 100_000):
        monkeypatch.setattr(iot, "named_shadow", lambda thing, said=nonsense: good if thing == "good" else said)
        ring = membership.Ring(0, "lab-r0", "arn", ("bad", "good"))
        model = FleetModel("toy", "2.0.0", OURS, "fleet-7", 7)
        ends = follow.follow(Deployed("lab", "fleet-7", 7, (model,), (RingDeployment(ring, "ours"),)), 0.0)
        assert {item.thing: item.end for item in ends} == {"bad": End.TIMED_OUT, "good": End.DONE}


def test_enrolment_is_for_life_and_the_first_device_goes_to_ring_0(bucket: Bucket) -> None:
    ensure_fleet(bucket, "enrolled")
    for thing in ("e1", "e2"):
        session.call("iot", "create_thing", thingName=thing)
    assert enrol("e1", "enrolled").ring == 0
    assert enrol("e2", "enrolled", 2).group == "enrolled-r2"
    assert enrol("e2", "enrolled").ring == 2
    assert membership.placed("enrolled") == {"e1": 0, "e2": 2}
    with pytest.raises(Conflict, match="in ring 0"):
        enrol("e1", "enrolled", 3)
    with pytest.raises(Refused, match="no device 'nobody'"):
        enrol("nobody", "enrolled")
    with pytest.raises(Refused, match="no thing group"):
        enrol("e1", "nowhere")


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet of one running core device, and what is published for it."""

    name: str
    device: str
    bucket: Bucket


@pytest.fixture(scope="module")
def fleet(
    sandbox: RunningSandbox, signer: Any, make_package: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    bucket = Bucket.from_environment()
    ensure_fleet(bucket, "lab")
    components.publish(next(build.build(tmp_path_factory.mktemp("built"), only=("InferenceServer",))), bucket)
    for version, bias, error in (("1.0.0", 0.0, 0.0), ("2.0.0", 1.0, 0.0), ("3.0.0", 1.0, 1.0)):
        publishing.publish(make_package("toy", version, bias, error), "lab", signer.trust, bucket)
    devices.add(sandbox.folder, sandbox.ports, "core-1", "lab", "classic", None, signer.trust, lambda text: None)
    yield Fleet("lab", "core-1", bucket)
    devices.remove(sandbox.folder, sandbox.ports, "core-1")


def test_models_reach_a_real_core_device_and_a_bad_one_is_refused_while_the_good_one_stays(fleet: Fleet) -> None:
    def run(*targets: str, settings: tuple[str, ...] = ()) -> follow.DeviceEnd:
        done = deploy(
            fleet.name,
            [Target.parse(text) for text in targets],
            [Setting.parse(text) for text in settings],
            fleet.bucket,
        )
        assert [(item.ring.number, item.ring.devices) for item in done.rings] == [(0, (fleet.device,))]
        (end,) = follow.follow(done, 100)
        return end

    with pytest.raises(Refused, match=r"hybridge\.model\.toy|not published"):
        run("toy@9.0.0")
    with pytest.raises(Refused, match="without naming"):
        run("toy@1.0.0")
    assert record.read(fleet.bucket, fleet.name).epoch == 0, "a refused deploy takes no epoch"
    assert registry.champion(fleet.name, "toy", fleet.bucket) is None

    first = run(f"InferenceServer@{component_version()}", "toy@1.0.0", settings=("InferenceServer:tcp=127.0.0.1:0",))
    assert (first.end, first.reason) == (End.DONE, "toy 1.0.0 active")
    second = run("toy@2.0.0")
    assert (second.end, second.reason) == (End.DONE, "toy 2.0.0 active")
    champion = registry.champion(fleet.name, "toy", fleet.bucket)
    assert champion is not None
    assert champion.version == "2.0.0"

    bad = run("toy@3.0.0")
    assert bad.end is End.REFUSED
    assert "golden" in bad.reason
    assert "toy 2.0.0 is ACTIVE" in bad.reason
    put_back = run("toy@2.0.0")
    assert put_back.end is End.DONE

    group = iot.find_group("lab-r0")
    assert group is not None
    latest = greengrass.latest_deployment(group.arn)
    assert latest is not None
    assert {name: item.version for name, item in latest.components.items()} == {
        SERVER: component_version(),
        MODEL: "2.0.0",
    }
    assert json.loads(latest.components[SERVER].merge) == {"tcp": "127.0.0.1:0"}
    assert json.loads(latest.components[MODEL].merge)["hybridge"]["epoch"] == "4"


def test_a_device_that_never_answers_gets_a_stated_end(fleet: Fleet) -> None:
    session.call("iot", "create_thing", thingName="core-absent")
    ensure_fleet(fleet.bucket, "absent")
    enrol("core-absent", "absent")
    done = deploy("absent", [Target.parse(f"InferenceServer@{component_version()}")], [], fleet.bucket)
    (end,) = follow.follow(done, 1.0)
    assert end.end is End.OFFLINE
    assert "has not taken the deployment after 1 s" in end.reason


def test_a_fleet_without_devices_is_refused(fleet: Fleet) -> None:
    ensure_fleet(fleet.bucket, "empty")
    with pytest.raises(Refused, match="has no device"):
        deploy("empty", [Target.parse(f"InferenceServer@{component_version()}")], [], fleet.bucket)
