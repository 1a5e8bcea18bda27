"""Enrolment of the sandbox's own clients: the fleet's enrolment, and what only a sandbox needs besides.

The account forgets its registry when it is killed, while the certificates on disk stay: they are registered again
rather than replaced. Call everything here with ``session.using`` the sandbox's environment.
"""

from __future__ import annotations

import json
from pathlib import Path

from hybridge_cloud.aws import identity
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.aws.session import bucket_name
from hybridge_cloud.fleet import enrolment, membership, policies, record
from hybridge_cloud.fleet.nucleus import AUTHORITIES, CERTIFICATE, KEY, Endpoints, Nucleus
from hybridge_cloud.sandbox import account
from hybridge_cloud.sandbox.folder import ACCOUNT_ID, HOST, REGION, Ports
from hybridge_edge import durable
from hybridge_edge.contract.trust_document import TrustDocument

SENSORS = "hybridge-sensors"
"""The client that replays recordings. The account's broker stands in for a site's own broker, where sensors and
pipelines meet, so this one may use the topics of every device."""
JOBS = "hybridge-jobs"
"""The client by which the control service answers devices that ask for their jobs, and hears their status."""
_SCOPE = policies.Scope("aws", REGION, ACCOUNT_ID)


def ensure_fleet(fleet: str) -> bool:
    """Make a fleet, or those of its thing groups that the account forgot. Returns whether there was no such fleet."""
    bucket = Bucket.from_environment()
    if record.find(bucket, fleet) is None:
        membership.ensure_fleet(bucket, fleet)
        return True
    membership.ensure_groups(fleet)
    return False


def enrol(
    ports: Ports, folder: Path, thing: str, fleet: str, ring: int | None, mode: str, trust: TrustDocument | None
) -> int:
    """Enrol a device of the sandbox into its own folder, and write ``mqtt.json``. Returns its ring."""
    request = enrolment.Request(
        thing,
        fleet,
        Nucleus(mode),
        ring,
        trust,
        Endpoints(REGION, f"{HOST}:{ports.mqtt}", f"{HOST}:{ports.account}", enrolment.DEFAULT_ROLE_ALIAS),
        account.certificate_authority(ports),
    )
    _restore(folder)
    done = enrolment.enrol(request, bucket_name(), folder)
    _write_broker(ports, folder)
    return done.membership.ring


def identify(ports: Ports, folder: Path, thing: str) -> None:
    """Make a client that is in no fleet: thing, certificate, ``mqtt.json``; its policies are a device's, or its own."""
    device = policies.device_policies(thing, _SCOPE, enrolment.DEFAULT_ROLE_ALIAS)
    own = {SENSORS: _sensors, JOBS: _jobs}.get(thing)
    _restore(folder)
    enrolment.identify(thing, device if own is None else {thing: own()}, folder)
    durable.write(folder / AUTHORITIES, account.certificate_authority(ports))
    _write_broker(ports, folder)


def _sensors() -> policies.Document:
    topics = [f"{kind}/{topic}" for kind in ("topic", "topicfilter") for topic in ("sensors/*", "hybridge/*/results")]
    actions = ["iot:Publish", "iot:Receive", "iot:Subscribe"]
    return {
        "Version": policies.VERSION,
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": _SCOPE.iot("client/*")},
            {"Effect": "Allow", "Action": actions, "Resource": [_SCOPE.iot(topic) for topic in topics]},
        ],
    }


def _jobs() -> policies.Document:
    def of(name: str) -> list[str]:
        return [_SCOPE.iot(f"{kind}/$aws/things/*/{name}") for kind in ("topic", "topicfilter")]

    hears = ["iot:Receive", "iot:Subscribe"]
    return {
        "Version": policies.VERSION,
        "Statement": [
            {"Effect": "Allow", "Action": "iot:Connect", "Resource": _SCOPE.iot(f"client/{JOBS}")},
            {"Effect": "Allow", "Action": ["iot:Publish", *hears], "Resource": of("jobs/*")},
            {"Effect": "Allow", "Action": hears, "Resource": of("greengrassv2/health/json")},
        ],
    }


def _restore(folder: Path) -> None:
    """Register the certificate of a folder again where the account has forgotten it."""
    path = folder / enrolment.CERTIFICATE_ARN
    if path.exists() and not identity.certificate_status(path.read_text().strip()):
        identity.register((folder / CERTIFICATE).read_text())


def _write_broker(ports: Ports, folder: Path) -> None:
    """``mqtt.json``: what a client of the account's broker needs."""
    document = {
        "host": HOST,
        "port": ports.mqtt,
        "ca": str(folder / AUTHORITIES),
        "certificate": str(folder / CERTIFICATE),
        "key": str(folder / KEY),
    }
    durable.write(folder / "mqtt.json", json.dumps(document, indent=2).encode() + b"\n")
