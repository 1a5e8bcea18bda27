"""Who a device is to AWS IoT: its thing, its certificate, the policy of that certificate.

Every call can be made again: what is there already as it should be stays, and what is gone is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridge_cloud.aws import session
from hybridge_edge.contract.errors import Conflict

MAX_POLICY_VERSIONS = 5
"""Of one IoT policy, its default among them (AWS IoT Core quotas)."""
_ROOTS = b"Amazon Root CA"
"""In the subject of each of them (Amazon Trust Services)."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A device certificate: its ARN, and its PEM."""

    arn: str
    pem: str


def create_thing(name: str) -> None:
    """Make a thing; one that is there stays, whatever its type and attributes."""
    try:
        session.call("iot", "create_thing", thingName=name)
    except Conflict:
        session.call("iot", "describe_thing", thingName=name)


def delete_thing(name: str) -> None:
    _gone("delete_thing", thingName=name)


def sign_request(request: str) -> Certificate:
    """Have AWS IoT sign a certificate request (PEM). The certificate is INACTIVE until ``set_status``."""
    answer = session.call("iot", "create_certificate_from_csr", certificateSigningRequest=request, setAsActive=False)
    return Certificate(answer["certificateArn"], answer["certificatePem"])


def register(pem: str) -> str:
    """Register a certificate that is known by itself, ACTIVE, and return its ARN.

    Raises:
        Conflict: it is registered.
    """
    answer = session.call("iot", "register_certificate_without_ca", certificatePem=pem, status="ACTIVE")
    return str(answer["certificateArn"])


def certificate_status(arn: str) -> str:
    """ACTIVE, INACTIVE, REVOKED or another of AWS IoT's words; "" where the account has no such certificate."""
    try:
        answer = session.call("iot", "describe_certificate", certificateId=_id(arn))
    except session.NotFound:
        return ""
    return str(answer["certificateDescription"]["status"])


def set_status(arn: str, status: str) -> None:
    """Make a certificate ACTIVE or INACTIVE. Raises NotFound."""
    session.call("iot", "update_certificate", certificateId=_id(arn), newStatus=status)


def delete_certificate(arn: str) -> None:
    """Delete an INACTIVE certificate that nothing is attached to; one that is gone is fine."""
    _gone("delete_certificate", certificateId=_id(arn))


def certificates_of(thing: str) -> tuple[str, ...]:
    """ARNs of what a thing may prove itself with; empty where there is no such thing."""
    try:
        return tuple(session.pages("iot", "list_thing_principals", "principals", thingName=thing))
    except session.NotFound:
        return ()


def attach(thing: str, certificate: str, policies: tuple[str, ...]) -> None:
    """Give a certificate its policies, and the thing its certificate. Raises NotFound."""
    for policy in policies:
        session.call("iot", "attach_policy", policyName=policy, target=certificate)
    session.call("iot", "attach_thing_principal", thingName=thing, principal=certificate)


def detach(thing: str, certificate: str) -> None:
    """Take every policy from a certificate, and the certificate from the thing."""
    try:
        policies = session.pages("iot", "list_attached_policies", "policies", target=certificate)
    except session.NotFound:
        policies = []
    for policy in policies:
        _gone("detach_policy", policyName=policy["policyName"], target=certificate)
    _gone("detach_thing_principal", thingName=thing, principal=certificate)


def put_policy(name: str, document: Mapping[str, object]) -> None:
    """Make an IoT policy say ``document``: create it, add a version, or leave it where it says so already."""
    text = json.dumps(document, separators=(",", ":"))
    try:
        found = session.call("iot", "get_policy", policyName=name)
    except session.NotFound:
        session.call("iot", "create_policy", policyName=name, policyDocument=text)
        return
    if json.loads(found["policyDocument"]) == document:
        return
    versions = _versions(name)
    if len(versions) >= MAX_POLICY_VERSIONS:
        old = min(item["createDate"] for item in versions if not item["isDefaultVersion"])
        version = next(item["versionId"] for item in versions if item["createDate"] == old)
        _gone("delete_policy_version", policyName=name, policyVersionId=version)
    session.call("iot", "create_policy_version", policyName=name, policyDocument=text, setAsDefault=True)


def delete_policy(name: str) -> None:
    """Delete a policy that is attached to nothing, with all its versions; one that is gone is fine."""
    for item in _versions(name):
        if not item["isDefaultVersion"]:
            _gone("delete_policy_version", policyName=name, policyVersionId=item["versionId"])
    _gone("delete_policy", policyName=name)


def endpoint(kind: str) -> str:
    """The account's host of a kind: ``iot:Data-ATS`` or ``iot:CredentialProvider``."""
    return str(session.call("iot", "describe_endpoint", endpointType=kind)["endpointAddress"])


def root_authorities() -> bytes:
    """PEM of the authorities that sign AWS IoT's endpoints, from the bundle that botocore itself trusts."""
    import ssl

    import botocore

    end = "-----END CERTIFICATE-----"
    bundle = (Path(botocore.__file__).parent / "cacert.pem").read_text()
    blocks = [block[block.index("-----BEGIN") :] + end for block in bundle.split(end) if "-----BEGIN" in block]
    found = [der for block in blocks if _ROOTS in (der := ssl.PEM_cert_to_DER_cert(block))]
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in found).encode()


def _versions(policy: str) -> list[dict[str, Any]]:
    try:
        return list(session.call("iot", "list_policy_versions", policyName=policy)["policyVersions"])
    except session.NotFound:
        return []


def _gone(operation: str, **parameters: Any) -> None:
    """Call an operation that takes something away; that it is not there is fine."""
    try:
        session.call("iot", operation, **parameters)
    except session.NotFound:
        return


def _id(arn: str) -> str:
    return arn.rpartition("/")[2]
