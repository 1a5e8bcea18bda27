"""What the two nuclei of Greengrass want on a device: their configuration, and where each file goes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hybridge_edge.contract.trust_document import DEFAULT_TRUST_FILE

KEY, CERTIFICATE, AUTHORITIES, TRUST = "private.key", "certificate.pem", "ca.pem", "trust.json"
CONFIGURATION, RUNTIME = "config.yaml", "tmpfiles.conf"
CLASSIC_VERSION = "2.18.0"
"""Of the classic nucleus, where the operator names none; it must be the installed one."""
DATA_PLANE_PORT = 8443


class Nucleus(str, Enum):
    """Which nucleus a device runs."""

    CLASSIC = "classic"
    LITE = "lite"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file of an enrolment goes on the device; ``mode`` is octal."""

    file: str
    path: str
    owner: str
    mode: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a core device calls: hosts of AWS IoT, region, and the role alias it fetches credentials by."""

    region: str
    data: str
    credentials: str
    role_alias: str


_ROOT = {Nucleus.CLASSIC: "/greengrass/v2", Nucleus.LITE: "/var/lib/greengrass"}
_OWNER = {Nucleus.CLASSIC: "root:root", Nucleus.LITE: "ggcore:ggcore"}
_COMPONENT_USER = {Nucleus.CLASSIC: ("ggc_user", "ggc_group"), Nucleus.LITE: ("gg_component", "gg_component")}
_CONFIGURATION = {Nucleus.CLASSIC: "/greengrass/v2/config.yaml", Nucleus.LITE: "/etc/greengrass/config.yaml"}


def places(nucleus: Nucleus, trusting: bool) -> tuple[Place, ...]:
    """Each file that a device needs, and where. ``trusting``: whether there is a trust file."""
    root, owner = _ROOT[nucleus], _OWNER[nucleus]
    trust = (Place(TRUST, DEFAULT_TRUST_FILE, "root:root", "0644"),) if trusting else ()
    return (
        Place(KEY, f"{root}/{KEY}", owner, "0600"),
        Place(CERTIFICATE, f"{root}/{CERTIFICATE}", owner, "0644"),
        Place(AUTHORITIES, f"{root}/{AUTHORITIES}", owner, "0644"),
        Place(CONFIGURATION, _CONFIGURATION[nucleus], owner, "0644"),
        *trust,
        Place(RUNTIME, "/etc/tmpfiles.d/hybridge.conf", "root:root", "0644"),
    )


def configuration(nucleus: Nucleus, thing: str, endpoints: Endpoints, version: str = CLASSIC_VERSION) -> bytes:
    """The core device's first configuration, YAML."""
    import yaml

    root = _ROOT[nucleus]
    system = {
        "certificateFilePath": f"{root}/{CERTIFICATE}",
        "privateKeyPath": f"{root}/{KEY}",
        "rootCaPath": f"{root}/{AUTHORITIES}",
        # The one key that the two nuclei spell differently.
        "rootpath" if nucleus is Nucleus.CLASSIC else "rootPath": root,
        "thingName": thing,
    }
    settings: dict[str, object] = {
        "awsRegion": endpoints.region,
        "iotRoleAlias": endpoints.role_alias,
        "iotDataEndpoint": endpoints.data,
        "iotCredEndpoint": endpoints.credentials,
        "runWithDefault": {"posixUser": ":".join(_COMPONENT_USER[nucleus])},
    }
    if nucleus is Nucleus.CLASSIC:
        name, service = "aws.greengrass.Nucleus", {"componentType": "NUCLEUS", "version": version}
    else:
        name, service = "aws.greengrass.NucleusLite", {"componentType": "NUCLEUS"}
        settings["greengrassDataPlanePort"] = str(DATA_PLANE_PORT)
    document = {"system": system, "services": {name: {**service, "configuration": settings}}}
    return yaml.safe_dump(document, sort_keys=False).encode()


def runtime_folder(nucleus: Nucleus) -> bytes:
    """A line of tmpfiles.d(5) that makes /run/hybridge at every boot, for the user that components run as."""
    user, group = _COMPONENT_USER[nucleus]
    return f"d /run/hybridge 0700 {user} {group} -\n".encode()
