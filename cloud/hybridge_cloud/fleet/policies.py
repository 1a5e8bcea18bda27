"""What a device may do in the account: the policy of its certificate, and the role it fetches credentials of.

The certificate's policy names the thing itself. AWS IoT's thing policy variables (``iot:Connection.Thing.*``) are not
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


def policy_name(thing: str) -> str:
    """The name of a device's policy; a policy's name allows less than a thing's."""
    if _POLICY_NAME.fullmatch(names.thing_name(thing)):
        return f"hybridge-device-{thing}"
    return f"hybridge-device+{hashlib.sha256(thing.encode()).hexdigest()[:32]}"


def device_policy(thing: str, scope: Scope, role_alias: str) -> Document:
    """The IoT policy of one device's certificate: its own connections, jobs, shadow and topics, and nothing else.

    Raises:
        InvalidName: the thing's name is so long that AWS IoT would refuse the policy.
    """
    own = f"$aws/things/{names.thing_name(thing)}"
    both = [
        f"{own}/jobs/*",
        f"{own}/shadow/name/hybridge/*",
        f"{own}/shadow/name/{GREENGRASS_SHADOW}/*",
        f"hybridge/{thing}/*",
        f"sensors/{thing}/*",
    ]
    document: Document = {
        "Version": VERSION,
        "Statement": [
            _allow(["iot:Connect"], [scope.iot(f"client/{thing}"), scope.iot(f"client/{thing}#*")]),
            _allow(
                ["iot:Publish", "iot:Receive"],
                [scope.iot(f"topic/{topic}") for topic in (*both, f"{own}/greengrassv2/health/json")],
            ),
            _allow(["iot:Subscribe"], [scope.iot(f"topicfilter/{topic}") for topic in both]),
            _allow(list(GREENGRASS_CALLS), ["*"]),
            _allow(["iot:AssumeRoleWithCertificate"], [scope.iot(f"rolealias/{role_alias}")]),
        ],
    }
    size = len(json.dumps(document, separators=(",", ":")))
    if size > MAX_POLICY_CHARACTERS:
        raise InvalidName(
            f"The policy of the device {thing!r} has {size} characters; AWS IoT allows {MAX_POLICY_CHARACTERS}.",
            "Give the device a shorter name: up to 64 characters fit.",
        )
    return document


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
