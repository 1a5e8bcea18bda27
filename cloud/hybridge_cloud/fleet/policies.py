"""What a device may do in the account: the policies of its certificate, and the role it fetches credentials of.

The certificate's policies name the thing itself. AWS IoT's thing policy variables (``iot:Connection.Thing.*``) are not
supported for Greengrass core devices, which open several connections as ``THING``, ``THING#2`` and so on and call
Greengrass over HTTPS; a name with a ``*`` behind it, which AWS' own examples have, would let ``till`` act as ``till2``.
A thing's name holds no ``#``, so ``THING#*`` is nobody else's.

The role is one for all devices: there ``credentials-iot:ThingName`` is the thing whose certificate asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.errors import InvalidName

MAX_POLICY_CHARACTERS = 2048
"""Of an IoT policy document, white space aside (AWS IoT Core quotas)."""
VERSION = "2012-10-17"
GREENGRASS_SHADOW = "AWSManagedGreengrassV2Deployment"
"""The nucleus' own; a device that may not publish to it is thrown off the broker again and again."""
GREENGRASS_CALLS = (
    "greengrass:GetComponentVersionArtifact",
    "greengrass:GetDeploymentConfiguration",
    "greengrass:ListThingGroupsForCoreDevice",
    "greengrass:ResolveComponentCandidates",
)
_POLICY_NAME = re.compile(r"[\w+=,.@-]{1,100}", re.ASCII)

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Scope:
    """Where resources are: ``aws`` (or ``aws-cn``...), region, account number."""

    partition: str
    region: str
    account: str

    @classmethod
    def of(cls, arn: str) -> Scope:
        """The scope of any resource's ARN."""
        _, partition, _, region, account, _ = arn.split(":", 5)
        return cls(partition, region, account)

    def iot(self, resource: str) -> str:
        return f"arn:{self.partition}:iot:{self.region}:{self.account}:{resource}"


def policy_names(thing: str) -> tuple[str, str]:
    """The names of a device's two policies; a policy's name allows less than a thing's."""
    short = names.thing_name(thing)
    if _POLICY_NAME.fullmatch(short) is None:
        short = f"+{hashlib.sha256(thing.encode()).hexdigest()[:32]}"  # no thing's name holds a plus
    return f"hybridge-device-{short}", f"hybridge-topics-{short}"


def device_policies(thing: str, scope: Scope, role_alias: str) -> dict[str, Document]:
    """The IoT policies of one device's certificate, by name: its own connections, jobs, shadow and topics, no more.

    Two of them, since one would be too long for a long name.

    Raises:
        InvalidName: AWS IoT would refuse them for their length.
    """
    own = f"$aws/things/{names.thing_name(thing)}"
    both = [
        f"{own}/jobs/*",
        f"{own}/shadow/name/hybridge/*",
        f"{own}/shadow/name/{GREENGRASS_SHADOW}/*",
        f"hybridge/{thing}/*",
        f"sensors/{thing}/*",
    ]
    device: Document = {
        "Version": VERSION,
        "Statement": [
            _allow(["iot:Connect"], [scope.iot(f"client/{thing}"), scope.iot(f"client/{thing}#*")]),
            _allow(["iot:Subscribe"], [scope.iot(f"topicfilter/{topic}") for topic in both]),
            _allow(list(GREENGRASS_CALLS), ["*"]),
            _allow(["iot:AssumeRoleWithCertificate"], [scope.iot(f"rolealias/{role_alias}")]),
        ],
    }
    exchanged = [scope.iot(f"topic/{topic}") for topic in (*both, f"{own}/greengrassv2/health/json")]
    topics: Document = {"Version": VERSION, "Statement": [_allow(["iot:Publish", "iot:Receive"], exchanged)]}
    documents = dict(zip(policy_names(thing), (device, topics), strict=True))
    for document in documents.values():
        size = len(json.dumps(document, separators=(",", ":")))
        if size > MAX_POLICY_CHARACTERS:
            raise InvalidName(
                f"A policy of the device {thing!r} has {size} characters; AWS IoT allows {MAX_POLICY_CHARACTERS}.",
                "Give the device, or the role alias, a shorter name.",
            )
    return documents


def role_policy(bucket: str, partition: str) -> Document:
    """The IAM policy of the role behind the alias: read components and packages, write below ``devices/THING/``."""
    objects = f"arn:{partition}:s3:::{bucket}"
    return {
        "Version": VERSION,
        "Statement": [
            _allow(["s3:GetObject"], [f"{objects}/components/*", f"{objects}/packages/*"]),
            _allow(["s3:PutObject"], [f"{objects}/devices/${{credentials-iot:ThingName}}/*"]),
            _allow(["s3:GetBucketLocation"], [objects]),
        ],
    }


def role_trust() -> Document:
    """Who may assume that role: AWS IoT's credentials provider, for a certificate that proved itself."""
    return {
        "Version": VERSION,
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "credentials.iot.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }


def _allow(actions: list[str], resources: list[str]) -> Document:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}
