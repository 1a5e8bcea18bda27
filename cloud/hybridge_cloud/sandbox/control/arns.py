"""The names AWS gives to things, written and read."""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_cloud.sandbox.control.wire import invalid
from hybridge_cloud.sandbox.folder import ACCOUNT_ID, REGION


def component(name: str) -> str:
    return f"arn:aws:greengrass:{REGION}:{ACCOUNT_ID}:components:{name}"


def component_version(name: str, version: str) -> str:
    return f"{component(name)}:versions:{version}"


def configuration(target: Target, revision: int) -> str:
    """The ARN a device's job document and status name a deployment by: ``configuration:thinggroup/G:REV``."""
    return f"arn:aws:greengrass:{REGION}:{ACCOUNT_ID}:configuration:{target.kind}/{target.name}:{revision}"


def job(job_id: str) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:job/{job_id}"


def group(name: str) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:thinggroup/{name}"


def thing(name: str) -> str:
    return f"arn:aws:iot:{REGION}:{ACCOUNT_ID}:thing/{name}"


def pipeline(name: str) -> str:
    return f"arn:aws:codepipeline:{REGION}:{ACCOUNT_ID}:{name}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a deployment is for: a ``thinggroup`` or a ``thing``."""

    kind: str
    name: str

    @property
    def arn(self) -> str:
        return group(self.name) if self.kind == "thinggroup" else thing(self.name)


def target(arn: str) -> Target:
    """The target an ARN names.

    Raises:
        ServiceError: it names no thing and no thing group of this account and region.
    """
    head, _, name = arn.partition("/")
    prefix, _, kind = head.rpartition(":")
    if prefix != f"arn:aws:iot:{REGION}:{ACCOUNT_ID}" or kind not in ("thinggroup", "thing") or not name:
        raise invalid(f"{arn} is not the ARN of a thing or thing group of account {ACCOUNT_ID} in {REGION}.")
    return Target(kind, name)
