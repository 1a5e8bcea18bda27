"""Write one ring's next deployment with one thing changed, once: however often it is tried, by however many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.greengrass import CANCELLED, Deployment
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.deploy import Target, revised
from hybridge_cloud.fleet.membership import Ring
from hybridge_cloud.rollout import lease as leases
from hybridge_cloud.rollout.lease import Clock, wall_clock
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.states import Mode


class ForeignRevision(Refused):
    """The ring's latest deployment is not one that Hybridge wrote. ``group`` and ``deployment`` name both."""

    code = "FOREIGN_REVISION"

    def __init__(self, group: str, deployment: str, written: str) -> None:
        super().__init__(
            f"The latest deployment of {group} is {deployment or 'none'}, which Hybridge did not write; "
            f"its own was {written or 'none'}.",
            "Look at who wrote it; a new rollout starts from what is there then.",
        )
        self.group, self.deployment = group, deployment


@dataclass(frozen=True, slots=True)
class Change:
    """What a deployment asks of one model, or of one component by its full name: a version.

    Attributes:
        rollout, epoch: by which; a model is handed both, a component gets neither and keeps its configuration.
    """

    model: str
    version: str
    rollout: str
    epoch: int
    mode: Mode = Mode.ACTIVATE

    def name(self, ring: int) -> str:
        """The deployment's name, which no other write of ours has."""
        return f"{self.rollout}-r{ring}-e{self.epoch}"

    def token(self, ring: int, after: str) -> str:
        """The client token: the same for the same rollout, ring, epoch, demand and deployment it comes after."""
        text = f"{self.name(ring)} {self.model} {self.version} {self.mode.value} {after}"
        return hashlib.sha256(text.encode()).hexdigest()

    def carried_by(self, deployment: Deployment, prefix: str) -> bool:
        """Whether a deployment asks a ring for exactly this, whatever else it asks for."""
        target = Target(self.model, self.version)
        wanted = deployment.components.get(target.component(prefix))
        if wanted is None or wanted.version != self.version:
            return False
        if not target.is_model:
            return True  # while it is held nobody else of ours changes it, and what is foreign was found out before
        if not wanted.merge:
            return False
        asked = json.loads(wanted.merge).get("hybridge")
        if not isinstance(asked, dict):
            return False
        reader = Reader(asked, f"configuration of {self.model} in the deployment {deployment.id}")
        found = (reader.text("rollout", ""), reader.text("epoch", ""), reader.text("mode", ""))
        return found == (self.rollout, str(self.epoch), self.mode.value)


def write(
    bucket: Bucket,
    ring: Ring,
    change: Change,
    prefix: str,
    holder: str,
    *,
    clock: Clock = wall_clock,
    wait_seconds: float = leases.WAIT_SECONDS,
    wanted: Callable[[], bool] = lambda: True,
) -> str:
    """Write the ring's latest deployment with that change made, and return the id of the one that asks for it now.

    Returns:
        "" where nothing was written since it is not wanted any more.

    A ring whose latest deployment asks for this change already is left as it is, unless it was cancelled: its writer
    died before it could say so, or another rollout's revision kept our change.

    Args:
        wait_seconds: for another holder of the ring's lease.
        wanted: asked under the lease, right before the call that changes the ring.

    Raises:
        LeaseHeld: another command writes this ring. ForeignRevision: somebody else wrote it since we did.
        Refused: the ring's list does not name the inference server.
    """
    with leases.held(bucket, ring.group, holder, clock=clock, wait_seconds=wait_seconds) as lease:
        latest = greengrass.latest_deployment(ring.arn)
        if latest is not None and not lease.record.wrote(latest):
            raise ForeignRevision(ring.group, latest.id, lease.record.deployment)
        if latest is not None and latest.status != CANCELLED and change.carried_by(latest, prefix):
            lease.accept(latest.id)
            return latest.id
        after = revised(
            latest.components if latest else {}, [Target(change.model, change.version)], [], prefix,
            change.rollout, change.epoch, change.mode,
        )  # fmt: skip
        before = latest.id if latest else ""
        lease.intend(change.name(ring.number), before)
        if not wanted():
            return ""
        token = change.token(ring.number, before)
        created = greengrass.create_deployment(ring.arn, change.name(ring.number), after, token)
        lease.accept(created)
        return created
