"""Enrolment against a real registry: what it makes, that it can be repeated and resumed, and what it refuses."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from paho.mqtt import client as mqtt

from hybridge_cloud.aws import identity, iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.fleet import enrolment, membership, policies, standing
from hybridge_cloud.fleet.enrolment import Enrolled, Request
from hybridge_cloud.fleet.membership import ensure_fleet
from hybridge_cloud.fleet.nucleus import Endpoints, Nucleus
from hybridge_cloud.sandbox.lifecycle import RunningSandbox
from hybridge_cloud.signing import generate_key
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Conflict, HybridgeError, InvalidName, Refused, Unavailable
from hybridge_edge.contract.report import DeviceReport, ModelReport
from hybridge_edge.contract.states import PackageState
from hybridge_edge.contract.trust_document import TrustDocument

PATIENCE = 20.0
MADE = {
    "ca.pem", "certificate.arn", "certificate.pem", "config.yaml", "enrolment.json", "iot-policies.json",
    "private.key", "role-policy.json", "role-trust.json", "tmpfiles.conf",
}  # fmt: skip


@pytest.fixture
def fleet(bucket: Bucket) -> str:
    name = f"fleet-{uuid.uuid4().hex[:6]}"
    ensure_fleet(bucket, name)
    return name


@pytest.fixture
def thing() -> str:
    return f"till-{uuid.uuid4().hex[:6]}"


def enrol(bucket: Bucket, thing: str, fleet: str, folder: Path, **more: Any) -> Enrolled:
    return enrolment.enrol(Request(thing, fleet, **{"nucleus": Nucleus.CLASSIC, **more}), bucket.name, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hybridge(*words: object) -> subprocess.CompletedProcess[str]:
    program = "from hybridge_cloud.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )


def test_enrolment_makes_a_device_with_a_key_that_only_its_folder_has(
    bucket: Bucket, thing: str, fleet: str, tmp_path: Path
) -> None:
    generate_key(tmp_path / "key.pem", tmp_path / "trust.json")
    trust = TrustDocument.from_bytes((tmp_path / "trust.json").read_bytes())
    folder = tmp_path / "out" / thing
    done = enrol(bucket, thing, fleet, folder, trust=trust)

    assert (done.membership.ring, iot.groups_of(thing)) == (0, (f"{fleet}-r0",))
    assert iot.things_in(fleet) == ()
    assert set(contents(folder)) == MADE | {"trust.json"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "private.key").stat().st_mode) == 0o600
    key = load_pem_private_key((folder / "private.key").read_bytes(), None).public_key()
    certificate = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes()).public_key()
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.public_bytes(*form) == certificate.public_bytes(*form)
    assert TrustDocument.from_bytes((folder / "trust.json").read_bytes()) == trust
    assert (folder / "ca.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 4

    assert identity.certificates_of(thing) == (done.certificate,)
    assert identity.certificate_status(done.certificate) == "ACTIVE"
    scope = policies.Scope.of(done.certificate)
    assert json.loads((folder / "iot-policies.json").read_text()) == policies.device_policies(
        thing, scope, enrolment.DEFAULT_ROLE_ALIAS
    )


@pytest.mark.parametrize(
    ("nucleus", "service", "root"),
    [
        (Nucleus.CLASSIC, "aws.greengrass.Nucleus", "/greengrass/v2"),
        (Nucleus.LITE, "aws.greengrass.NucleusLite", "/var/lib/greengrass"),
    ],
)
def test_the_configuration_names_the_files_where_the_printed_places_put_them(
    bucket: Bucket, thing: str, fleet: str, tmp_path: Path, nucleus: Nucleus, service: str, root: str
) -> None:
    endpoints = Endpoints("eu-west-1", "data.example", "credentials.example", "tills")
    done = enrol(bucket, thing, fleet, tmp_path / "d", nucleus=nucleus, endpoints=endpoints, authorities=b"ca")
    document = yaml.safe_load((tmp_path / "d" / "config.yaml").read_text())
    system, settings = document["system"], document["services"][service]["configuration"]
    places = {place.file: place.path for place in done.places}
    assert system["thingName"] == thing
    assert system["privateKeyPath"] == places["private.key"]
    assert system["certificateFilePath"] == places["certificate.pem"]
    assert system["rootCaPath"] == places["ca.pem"]
    assert root in (system.get("rootpath"), system.get("rootPath"))
    assert settings["iotDataEndpoint"] == "data.example"
    assert settings["iotCredEndpoint"] == "credentials.example"
    assert (settings["awsRegion"], settings["iotRoleAlias"]) == ("eu-west-1", "tills")
    assert {place.mode for place in done.places if place.file == "private.key"} == {"0600"}
    assert "trust.json" not in places
    user = settings["runWithDefault"]["posixUser"].replace(":", " ")
    assert (tmp_path / "d" / "tmpfiles.conf").read_text() == f"d /run/hybridge 0700 {user} -\n"


def test_enrolling_again_changes_nothing(bucket: Bucket, thing: str, fleet: str, tmp_path: Path) -> None:
    first = enrol(bucket, thing, fleet, tmp_path / "d", ring=2)
    before = contents(tmp_path / "d")
    assert enrol(bucket, thing, fleet, tmp_path / "d") == first
    assert contents(tmp_path / "d") == before
    assert identity.certificates_of(thing) == (first.certificate,)


STEPS = ("create_thing", "put_policy", "sign_request", "attach", "set_status", "endpoint")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_enrolment_that_was_cut_off_is_finished_by_the_same_command(
    bucket: Bucket, thing: str, fleet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    real = getattr(identity, step)

    def cut(*values: Any) -> Any:
        if when == "after":
            real(*values)
        raise Unavailable("the line is cut")

    with monkeypatch.context() as patched:
        patched.setattr(identity, step, cut)
        with pytest.raises(Unavailable, match="cut"):
            enrol(bucket, thing, fleet, tmp_path / "d")
    assert iot.groups_of(thing) == ()  # a device that is not whole is in no ring
    key = (tmp_path / "d" / "private.key").read_bytes() if (tmp_path / "d" / "private.key").exists() else None
    done = enrol(bucket, thing, fleet, tmp_path / "d")
    assert iot.groups_of(thing) == (f"{fleet}-r0",)
    assert identity.certificates_of(thing) == (done.certificate,)
    assert identity.certificate_status(done.certificate) == "ACTIVE"
    assert set(contents(tmp_path / "d")) == MADE
    assert key is None or key == (tmp_path / "d" / "private.key").read_bytes()


def test_what_cannot_be_is_refused_and_nothing_is_made(bucket: Bucket, thing: str, fleet: str, tmp_path: Path) -> None:
    other = f"{fleet}-b"
    ensure_fleet(bucket, other)
    enrol(bucket, "first" + thing, fleet, tmp_path / "first")
    file = tmp_path / "file"
    file.write_text("")
    out = tmp_path / "out"
    tries: list[tuple[type[HybridgeError], str, str, Path, dict[str, Any]]] = [
        (InvalidName, "a b", fleet, out, {}),
        (InvalidName, thing, "no/fleet", out, {}),
        (InvalidName, thing, fleet, out, {"ring": 4}),
        (Refused, thing, "nowhere", out, {}),
        (Refused, thing, fleet, file, {}),
        (Refused, thing, fleet, file / "below", {}),
        (Refused, thing, fleet, Path("/proc/nothing/here"), {}),
        (Conflict, thing, fleet, tmp_path / "first", {}),
        (Conflict, "first" + thing, fleet, out, {}),
        (Conflict, "first" + thing, fleet, tmp_path / "first", {"ring": 3}),
        (Conflict, "first" + thing, other, out, {}),
    ]
    for kind, name, into, folder, more in tries:
        with pytest.raises(kind):
            enrol(bucket, name, into, folder, **more)
    assert not out.exists()
    assert identity.certificates_of(thing) == ()
    assert iot.groups_of("first" + thing) == (f"{fleet}-r0",)
    with pytest.raises(InvalidName, match="ring"):
        ensure_fleet(bucket, f"{fleet}-r1")


def test_a_thing_that_is_directly_in_the_parent_group_is_refused(
    bucket: Bucket, thing: str, fleet: str, tmp_path: Path
) -> None:
    identity.create_thing(thing)
    iot.add_to_group(thing, fleet)
    with pytest.raises(Conflict, match="directly"):
        enrol(bucket, thing, fleet, tmp_path / "d")


def test_groups_that_are_no_rings_do_not_matter(bucket: Bucket, thing: str, fleet: str, tmp_path: Path) -> None:
    iot.create_group(f"{fleet}-floor-r1")
    identity.create_thing(thing)
    iot.add_to_group(thing, f"{fleet}-floor-r1")
    assert enrol(bucket, thing, fleet, tmp_path / "d", ring=1).membership.ring == 1


def test_two_enrolments_at_once_leave_a_device_in_one_ring(fleet: str, thing: str) -> None:
    """The second one has looked before the first one joins."""
    identity.create_thing(thing)
    first, second = (membership.choose(thing, fleet, ring) for ring in (1, 2))
    membership.join(first)
    with pytest.raises(Conflict, match="meanwhile"):
        membership.join(second)
    assert iot.groups_of(thing) == (f"{fleet}-r1",)


def publish(sandbox: RunningSandbox, folder: Path, client_id: str, topic: str) -> bool:
    """Whether the broker took a message from who holds the folder's certificate."""
    from hybridge_cloud.sandbox import account

    (folder / "broker.pem").write_bytes(account.certificate_authority(sandbox.ports))
    taken, ended = [False], threading.Event()
    one = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, reconnect_on_failure=False)
    one.tls_set(str(folder / "broker.pem"), str(folder / "certificate.pem"), str(folder / "private.key"))
    one.on_connect = lambda *_: one.publish(topic, b'{"state":{"reported":{"a":1}}}', 1)
    one.on_disconnect = lambda *_: ended.set()

    def acknowledged(*_: Any) -> None:
        taken[0] = True
        ended.set()

    one.on_publish = acknowledged
    one.connect("127.0.0.1", sandbox.ports.mqtt)
    one.loop_start()
    try:
        assert ended.wait(PATIENCE)
    finally:
        one.disconnect()
        one.loop_stop()
    return taken[0]


def test_the_broker_holds_a_device_to_its_own_name_and_topics(
    sandbox: RunningSandbox, bucket: Bucket, thing: str, fleet: str, tmp_path: Path
) -> None:
    other = thing + "2"
    for name in (thing, other):
        enrol(bucket, name, fleet, tmp_path / name)
    own, foreign = names.shadow_update_topic(thing), names.shadow_update_topic(other)
    assert publish(sandbox, tmp_path / thing, thing, own)
    assert publish(sandbox, tmp_path / other, other, foreign)
    assert publish(sandbox, tmp_path / thing, f"{thing}#2", names.telemetry_topic(thing))
    assert not publish(sandbox, tmp_path / thing, thing, foreign)
    assert not publish(sandbox, tmp_path / thing, other, own)
    assert not publish(sandbox, tmp_path / thing, thing, own.replace("/hybridge/", "/other/"))


def test_a_revoked_device_reaches_nothing_and_its_folder_is_of_no_use(
    sandbox: RunningSandbox, bucket: Bucket, thing: str, fleet: str, tmp_path: Path
) -> None:
    done = enrol(bucket, thing, fleet, tmp_path / "d", ring=1)
    assert publish(sandbox, tmp_path / "d", thing, names.telemetry_topic(thing))
    assert enrolment.revoke(thing) == (done.certificate,)
    assert not publish(sandbox, tmp_path / "d", thing, names.telemetry_topic(thing))
    assert (iot.groups_of(thing), identity.certificate_status(done.certificate)) == ((), "")
    assert enrolment.revoke(thing) == ()
    with pytest.raises(Conflict, match="revoked"):
        enrol(bucket, thing, fleet, tmp_path / "d")
    assert enrol(bucket, thing, fleet, tmp_path / "new", ring=1).membership.ring == 1


def test_a_policy_is_kept_up_to_date_within_the_versions_that_are_allowed(sandbox: RunningSandbox) -> None:
    name = f"policy-{uuid.uuid4().hex[:6]}"
    for number in range(2 * identity.MAX_POLICY_VERSIONS):
        for _ in range(2):
            identity.put_policy(name, {"Version": policies.VERSION, "Statement": [], "Id": str(number)})
    from hybridge_cloud.aws import session

    found = session.call("iot", "list_policy_versions", policyName=name)["policyVersions"]
    assert len(found) <= identity.MAX_POLICY_VERSIONS
    document = session.call("iot", "get_policy", policyName=name)["policyDocument"]
    assert json.loads(document)["Id"] == str(2 * identity.MAX_POLICY_VERSIONS - 1)
    identity.delete_policy(name)
    identity.delete_policy(name)


def test_the_commands_tell_the_same_story(sandbox: RunningSandbox, bucket: Bucket, thing: str, tmp_path: Path) -> None:
    fleet = f"fleet-{uuid.uuid4().hex[:6]}"
    missing = hybridge("fleet", "enroll", thing, "--fleet", fleet, "--out", tmp_path / "d")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert f"hybridge fleet create {fleet}" in missing.stderr
    created = json.loads(hybridge("fleet", "create", fleet, "--json").stdout)
    assert created["groups"] == [f"{fleet}-r{ring}" for ring in range(4)]
    usage = hybridge("fleet", "enroll", thing, "--fleet", fleet, "--out", tmp_path / "d", "--nucleus", "tiny")
    assert (usage.returncode, usage.stderr.count("\n")) == (2, 1)
    said = hybridge("fleet", "enroll", thing, "--fleet", fleet, "--out", tmp_path / "d")
    assert said.returncode == 0, said.stderr
    assert "/greengrass/v2/private.key" in said.stdout
    assert "root:root 0600" in said.stdout
    enrolled = json.loads(
        hybridge("fleet", "enroll", thing, "--fleet", fleet, "--out", tmp_path / "d", "--json").stdout
    )
    assert (enrolled["ring"], enrolled["group"]) == (0, f"{fleet}-r0")
    assert fleet in [item["fleet"] for item in json.loads(hybridge("fleet", "list", "--json").stdout)]
    shown = json.loads(hybridge("fleet", "show", fleet, "--json").stdout)
    (device,) = shown["rings"][0]["devices"]
    assert (device["thing"], device["online"], device["models"]) == (thing, False, [])
    assert f"{thing}: offline, no report" in hybridge("fleet", "show", fleet).stdout


def test_a_fleet_shows_what_its_devices_last_said(bucket: Bucket, fleet: str, thing: str, tmp_path: Path) -> None:
    from hybridge_cloud.aws import session

    for name, ring in ((thing, 1), (thing + "2", 1), (thing + "3", 3)):
        enrol(bucket, name, fleet, tmp_path / name, ring=ring)
    model = ModelReport("watch", "1.0.0", "sha256:" + "0" * 64, PackageState.ACTIVE, "r1", 3)
    report = DeviceReport(thing, 7, "1.0.0", (model,))
    for name in (thing, thing + "2"):  # the second one's shadow holds what the first one says
        session.call(
            "iot-data", "update_thing_shadow", thingName=name, shadowName=iot.SHADOW, payload=report.to_shadow_update()
        )
    first, second = standing.look(bucket, fleet).rings[1].devices
    assert first.last is not None
    assert (first.online, first.last.report, first.heard_ms) == (True, report, first.last.at_ms)
    assert (second.online, second.last) == (False, None)
    assert thing in second.problem
    later = standing.look_at(thing, 1, first.heard_ms + int(standing.ONLINE_SECONDS * 1000))
    assert not later.online
    (silent,) = standing.look(bucket, fleet).rings[3].devices
    assert (silent.heard_ms, silent.online, silent.problem) == (0, False, "")
