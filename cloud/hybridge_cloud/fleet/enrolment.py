"""Enrolment: from a name to a device that the account knows, and a folder with all that the device itself needs.

The folder holds, besides the files of ``nucleus.places``:

    enrolment.json            what was made; its ``complete`` is false until everything is
    certificate.arn           the certificate's ARN in the account
    iot-policies.json         what the certificate may do, as the account has it, by policy
    role-policy.json, role-trust.json   the IAM role behind the role alias, one for all devices of a bucket

The private key is made here and never leaves the folder but for the device: AWS IoT signs a request. Each step looks
first whether it is done, the certificate works only once it has its policies, and the ring comes last, so an enrolment
that was interrupted is finished by the same command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.aws import identity, iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.fleet import membership, nucleus, policies, record
from hybridge_cloud.fleet.membership import Membership
from hybridge_cloud.fleet.nucleus import CERTIFICATE, CLASSIC_VERSION, KEY, TRUST, Endpoints, Nucleus, Place
from hybridge_edge import durable
from hybridge_edge.contract import names
from hybridge_edge.contract.document import parse
from hybridge_edge.contract.errors import Conflict, InvalidDocument, Refused
from hybridge_edge.contract.trust_document import TrustDocument

FORMAT = 1
ENROLMENT, CERTIFICATE_ARN = "enrolment.json", "certificate.arn"
IOT_POLICIES, ROLE_POLICY, ROLE_TRUST = "iot-policies.json", "role-policy.json", "role-trust.json"
DEFAULT_ROLE_ALIAS = "hybridge-core"
MAX_COMMON_NAME = 64
"""Characters of a subject's common name (RFC 5280, ub-common-name)."""
KEY_BITS = 2048
"""RSA, as AWS IoT's own keys: both nuclei read it, from a file or from a hardware module."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for.

    Attributes:
        ring: to pin the device to; by a hash of its name where None. trust: whose packages it believes; None: nobody's.
        endpoints: fields that are "" are asked of the account. authorities: PEM of the endpoints' authorities; b"" for
            Amazon's. nucleus_version: of the classic nucleus.
    """

    thing: str
    fleet: str
    nucleus: Nucleus
    ring: int | None = None
    trust: TrustDocument | None = None
    endpoints: Endpoints = Endpoints("", "", "", DEFAULT_ROLE_ALIAS)  # noqa: RUF009  frozen
    authorities: bytes = b""
    nucleus_version: str = CLASSIC_VERSION


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What came of it: where the device is, its certificate, and where each file of ``folder`` goes."""

    membership: Membership
    certificate: str
    role_alias: str
    folder: Path
    places: tuple[Place, ...]


def enrol(request: Request, bucket: str, folder: Path) -> Enrolled:
    """Enrol a device, or finish an enrolment that was interrupted, or change nothing.

    Args:
        bucket: of the installation, for the role's policy. folder: made, 0700, if need be.

    Raises:
        Conflict: the device is in another ring or fleet, was enrolled into another folder, or the folder is another
            device's. InvalidName: a name, or a ring. Refused: no such fleet, or the folder cannot be written.
    """
    record.read(Bucket(bucket), request.fleet)
    chosen = membership.choose(request.thing, request.fleet, request.ring)
    scope = policies.Scope.of(_ring_arn(chosen))
    allowed = policies.device_policies(request.thing, scope, request.endpoints.role_alias)
    _check_folder(request, folder)
    _check_certificate(request.thing, folder)
    _begin(request, folder)
    certificate = identify(request.thing, allowed, folder)
    endpoints = Endpoints(
        request.endpoints.region or scope.region,
        request.endpoints.data or identity.endpoint("iot:Data-ATS"),
        request.endpoints.credentials or identity.endpoint("iot:CredentialProvider"),
        request.endpoints.role_alias,
    )
    files: dict[str, bytes] = {
        nucleus.AUTHORITIES: request.authorities or identity.root_authorities(),
        nucleus.CONFIGURATION: nucleus.configuration(
            request.nucleus, request.thing, endpoints, request.nucleus_version
        ),
        nucleus.RUNTIME: nucleus.runtime_folder(request.nucleus),
        IOT_POLICIES: _text(allowed),
        ROLE_POLICY: _text(policies.role_policy(bucket, scope.partition)),
        ROLE_TRUST: _text(policies.role_trust()),
    }
    if request.trust is not None:
        files[TRUST] = request.trust.to_bytes()
    for name, content in files.items():
        durable.write(folder / name, content, 0o644)
    membership.join(chosen)
    made = {**_beginning(request), "complete": True, "ring": chosen.ring, "certificate": certificate}
    durable.write(folder / ENROLMENT, _text(made), 0o644)
    trusting = (folder / TRUST).exists()
    places = nucleus.places(request.nucleus, trusting)
    return Enrolled(chosen, certificate, endpoints.role_alias, folder, places)


def identify(thing: str, allowed: Mapping[str, policies.Document], folder: Path) -> str:
    """Make a thing, its key and certificate in ``folder``, and its policies by name; return the certificate's ARN.

    Raises:
        Conflict: the thing has a certificate that is not the folder's, or the folder's was taken from it.
    """
    arn = _check_certificate(thing, folder)
    identity.create_thing(thing)
    for name, document in allowed.items():
        identity.put_policy(name, document)
    if not arn:
        arn = _certify(thing, folder)
    identity.attach(thing, arn, tuple(allowed))
    identity.set_status(arn, "ACTIVE")
    return arn


def revoke(thing: str) -> tuple[str, ...]:
    """Take from a device all that enrolment gave it in the account, the certificates first; return their ARNs.

    What is gone already is fine. Nothing on the device changes; without a certificate it reaches nothing any more.
    """
    certificates = identity.certificates_of(names.thing_name(thing))
    for arn in certificates:
        if identity.certificate_status(arn):
            identity.set_status(arn, "INACTIVE")
    for arn in certificates:
        identity.detach(thing, arn)
        identity.delete_certificate(arn)
    for group in iot.groups_of(thing):
        iot.remove_from_group(thing, group)
    for name in policies.policy_names(thing):
        identity.delete_policy(name)
    identity.delete_thing(thing)
    return certificates


def _ring_arn(chosen: Membership) -> str:
    return next(ring.arn for ring in membership.rings(chosen.fleet) if ring.number == chosen.ring)


def _check_certificate(thing: str, folder: Path) -> str:
    """The ARN of the folder's certificate, "" where there is none yet. Raises Conflict as ``identify``."""
    arn = _arn(folder)
    if foreign := [item for item in identity.certificates_of(thing) if item != arn]:
        raise Conflict(
            f"The device {thing!r} has a certificate that is not in {str(folder)!r}: {foreign[0].rpartition('/')[2]}.",
            f"Use the folder it was enrolled into, or take that certificate away: hybridge fleet revoke {thing}",
        )
    status = identity.certificate_status(arn) if arn else ""
    complete = _complete(folder)
    if arn and (not status or (complete and status != "ACTIVE")):
        raise Conflict(
            f"The certificate in {str(folder)!r} is {status or 'not known to the account'}.",
            "It was revoked, or is another account's: enrol the device into another folder.",
        )
    return arn


def _begin(request: Request, folder: Path) -> None:
    """Make the folder and say whose it is, before anything is made in the account."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / ENROLMENT).exists():
            durable.write(folder / ENROLMENT, _text(_beginning(request)), 0o644)
    except OSError as error:
        raise _unusable(folder, error) from None


def _unusable(folder: Path, error: OSError) -> Refused:
    return Refused(f"The folder {str(folder)!r} cannot be used: {error.strerror}.", "Name another folder with --out.")


def _beginning(request: Request) -> dict[str, object]:
    return {
        "format": FORMAT,
        "thing": request.thing,
        "fleet": request.fleet,
        "nucleus": request.nucleus.value,
        "complete": False,
    }


def _check_folder(request: Request, folder: Path) -> None:
    """Whether the folder is this enrolment's, or nobody's yet."""
    try:
        reader = parse((folder / ENROLMENT).read_bytes(), f"enrolment in {str(folder)!r}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(folder, error) from None
    reader.format(FORMAT)
    thing, fleet = reader.text("thing"), reader.text("fleet")
    if (thing, fleet) != (request.thing, request.fleet):
        raise Conflict(
            f"The folder {str(folder)!r} holds the enrolment of {thing!r} in the fleet {fleet!r}.",
            "Name another folder with --out.",
        )


def _complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ENROLMENT).read_bytes())["complete"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        raise InvalidDocument(f"{str(folder / ENROLMENT)!r} is no enrolment.", "Enrol into another folder.") from None


def _arn(folder: Path) -> str:
    """The ARN of the folder's certificate, or "" where there is none yet; its file is written last."""
    try:
        return (folder / CERTIFICATE_ARN).read_text().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _unusable(folder, error) from None


def _certify(thing: str, folder: Path) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    path = folder / KEY
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise InvalidDocument(f"{str(path)!r} is no RSA private key.", "Enrol the device into another folder.")
    else:
        key = rsa.generate_private_key(65537, KEY_BITS)
        form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        durable.write(path, key.private_bytes(serialization.Encoding.PEM, form, plain), 0o600)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, thing[:MAX_COMMON_NAME])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    made = identity.sign_request(request.public_bytes(serialization.Encoding.PEM).decode())
    durable.write(folder / CERTIFICATE, made.pem.encode(), 0o644)
    durable.write(folder / CERTIFICATE_ARN, made.arn.encode(), 0o644)
    return made.arn


def _text(document: object) -> bytes:
    return json.dumps(document, indent=2).encode() + b"\n"
