"""Devices in the account's IoT registry: things, certificates, groups; and their MQTT credentials on disk.

Everything here can be done again: the account forgets its registry when it is killed, while the certificates on disk
stay.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from hybridge_cloud.sandbox import account, provision
from hybridge_cloud.sandbox.folder import HOST, Ports
from hybridge_edge import durable

IoTClient = Any
"""boto3 makes its clients from data at run time; there is no class to name."""

POLICY = "hybridge-device"
_THING = "${iot:Connection.Thing.ThingName}"
_POLICY_DOCUMENT = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": f"arn:aws:iot:*:*:client/{_THING}*"},
        {
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": [
                f"arn:aws:iot:*:*:topic/{prefix}/{_THING}/*" for prefix in ("$aws/things", "hybridge", "sensors")
            ],
        },
        {
            "Effect": "Allow",
            "Action": "iot:Subscribe",
            "Resource": [
                f"arn:aws:iot:*:*:topicfilter/{prefix}/{_THING}/*" for prefix in ("$aws/things", "hybridge", "sensors")
            ],
        },
    ],
}


@functools.lru_cache(maxsize=8)
def client(ports: Ports) -> IoTClient:
    """A client of a sandbox's IoT registry; one for each sandbox, since botocore takes long to make one."""
    return provision.session().client(
        "iot", endpoint_url=provision.account_endpoint(ports), config=provision.configuration()
    )


def enrol(iot: IoTClient, ports: Ports, folder: Path, thing: str, groups: tuple[str, ...] = ()) -> None:
    """Make the thing, its certificate and memberships, and write ``mqtt.json`` with what a client of it needs.

    A certificate that lies in ``folder`` already is registered again rather than replaced.
    """
    iot.create_thing(thingName=thing)
    try:
        iot.create_policy(policyName=POLICY, policyDocument=json.dumps(_POLICY_DOCUMENT))
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
    arn = _certificate(iot, folder)
    iot.attach_thing_principal(thingName=thing, principal=arn)
    iot.attach_policy(policyName=POLICY, target=arn)
    for group in groups:
        iot.add_thing_to_thing_group(thingName=thing, thingGroupName=group)
    durable.write(folder / "ca.pem", account.certificate_authority(ports))
    document = {
        "host": HOST,
        "port": ports.mqtt,
        "ca": str(folder / "ca.pem"),
        "certificate": str(folder / "certificate.pem"),
        "key": str(folder / "private.key"),
    }
    durable.write(folder / "mqtt.json", json.dumps(document, indent=2).encode() + b"\n")


def _certificate(iot: IoTClient, folder: Path) -> str:
    """The ARN of the active certificate whose files lie in ``folder``; makes it where there is none."""
    certificate, key = folder / "certificate.pem", folder / "private.key"
    arn_file = folder / "certificate.arn"
    if not (certificate.exists() and key.exists() and arn_file.exists()):
        made = iot.create_keys_and_certificate(setAsActive=True)
        durable.write(key, made["keyPair"]["PrivateKey"].encode())
        durable.write(certificate, made["certificatePem"].encode())
        durable.write(arn_file, made["certificateArn"].encode())  # written last: its presence says the pair is whole
        return str(made["certificateArn"])
    try:
        known = iot.register_certificate_without_ca(certificatePem=certificate.read_text(), status="ACTIVE")
        return str(known["certificateArn"])
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
        return arn_file.read_text()


def forget(iot: IoTClient, folder: Path, thing: str) -> None:
    """Take the thing and its certificate out of the registry; parts that are gone already are fine."""
    try:
        arn = (folder / "certificate.arn").read_text()
    except FileNotFoundError:
        arn = ""  # its enrolment was interrupted before the certificate
    certificate = arn.rpartition("/")[2]
    withdraw: tuple[Callable[[], object], ...] = (
        lambda: iot.detach_thing_principal(thingName=thing, principal=arn),
        lambda: iot.detach_policy(policyName=POLICY, target=arn),
        lambda: iot.update_certificate(certificateId=certificate, newStatus="INACTIVE"),
        lambda: iot.delete_certificate(certificateId=certificate, forceDelete=True),
    )
    unregister: Callable[[], object] = lambda: iot.delete_thing(thingName=thing)  # noqa: E731
    for step in (*(withdraw if arn else ()), unregister):
        try:
            step()
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
