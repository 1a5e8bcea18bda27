"""Make the plan of a rollout from what the account holds, and refuse what could not be rolled out."""

from __future__ import annotations

import getpass

from hybridge_cloud import registry
from hybridge_cloud.aws import greengrass, iot
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.deploy import Target, check_published, revised
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.fleet.membership import Ring
from hybridge_cloud.rollout import lease as leases
from hybridge_cloud.rollout import record as rollouts
from hybridge_cloud.rollout.plan import Limits, Plan, Wave
from hybridge_edge.contract import names
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import Conflict, Refused, UsageError
from hybridge_edge.contract.expectations import Comparison
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.states import Mode

UNNUMBERED = "unnumbered"
"""The id of a plan that was not stored yet."""


def prepare(bucket: Bucket, fleet: str, target: Target, limits: Limits, now_ms: int) -> Plan:
    """The plan of rolling a published model out over the fleet's rings, not stored yet.

    Raises:
        Refused: no such fleet, no devices, not published, the fleet runs it, another rollout holds the model, or a
            ring has no inference server. Conflict: a device gets the component from somewhere else too.
        UsageError: the target is no model.
    """
    if not target.is_model:
        raise UsageError(
            f"{target.name} is a component, not a model.", f"Use: hybridge deploy {target.name}@{target.version}"
        )
    found = fleet_record.read(bucket, fleet)
    new = registry.get(bucket, target.name, target.version)
    check_published(target, found.prefix)
    before = found.find(target.name)
    if before is not None and before.digest == new.digest:
        raise Refused(f"The fleet {fleet!r} runs {target.name} {before.version} already.", "Roll out another version.")
    rollouts.refuse_if_held(bucket, fleet, target.name)
    waves = []
    for ring in membership.rings(fleet):
        latest = greengrass.latest_deployment(ring.arn)
        if not ring.devices and latest is None:
            continue
        revised(latest.components if latest else {}, [target], [], found.prefix, "", 0, Mode.ACTIVATE)
        _refuse_overlap(ring, target.component(found.prefix))
        waves.append(Wave(ring.number, ring.group, ring.devices))
    if not waves or not waves[0].devices:
        raise Refused(
            f"The fleet {fleet!r} has no device to begin with.",
            f"Enrol one into its first ring: hybridge sandbox device add NAME --fleet {fleet} --ring 0",
        )
    _refuse_parent(fleet, target.component(found.prefix))
    return Plan(
        id=UNNUMBERED,
        fleet=fleet,
        model=target.name,
        version=target.version,
        digest=new.digest,
        previous_version=before.version if before else "",
        previous_digest=before.digest if before else "",
        comparison=_comparison(bucket, target, new.digest, before.digest) if before else None,
        waves=tuple(waves),
        limits=limits,
        created_at_ms=now_ms,
        created_by=operator(),
    )


def refuse_if_outdated(bucket: Bucket, plan: Plan) -> None:
    """Raise Refused where the fleet is meant to run another version by now than the one that a plan replaces."""
    runs = fleet_record.read(bucket, plan.fleet).find(plan.model)
    if (runs.digest if runs else "") != plan.previous_digest:
        raise Refused(
            f"{plan.id} was planned to replace {plan.previous_version or 'nothing'}, and the fleet {plan.fleet!r} runs "
            f"{runs.version if runs else 'nothing'} of {plan.model} by now.",
            f"Abort it and plan again: hybridge rollout abort {plan.id} --fleet {plan.fleet}",
        )


def adopt(bucket: Bucket, plan: Plan, holder: str) -> tuple[str, ...]:
    """Begin from what the rings are asked for now, whoever wrote it, and say what of it Hybridge did not write.

    Raises:
        LeaseHeld: another command writes one of the rings.
    """
    said = []
    for ring in membership.rings(plan.fleet):
        if all(wave.ring != ring.number for wave in plan.waves):
            continue
        with leases.held(bucket, ring.group, holder) as lease:
            latest = greengrass.latest_deployment(ring.arn)
            if latest is not None and not lease.record.wrote(latest):
                lease.accept(latest.id)
                said.append(f"ring {ring.number}: begins from {latest.id}, which Hybridge did not write")
    return tuple(said)


def _comparison(bucket: Bucket, target: Target, digest: str, against: str) -> Comparison | None:
    """What the package says of the version it would replace, or None where it was compared with others only."""
    data = bucket.get(names.package_key(target.name, target.version, MANIFEST_FILE))
    if sha256(data) != digest:
        raise Refused(
            f"{target.name} {target.version} in S3 is not the package that was registered.", "Publish a higher version."
        )
    return next((item for item in Manifest.from_bytes(data).comparisons if item.against == against), None)


def _refuse_overlap(ring: Ring, component: str) -> None:
    """The same component at two targets of one device is a conflict that Greengrass finds only on the device."""
    for thing in ring.devices:
        for execution in greengrass.executions(thing):
            if execution.target == ring.arn:
                continue
            other = greengrass.latest_deployment(execution.target)
            if other is not None and component in other.components and other.status != greengrass.CANCELLED:
                raise Conflict(
                    f"The device {thing!r} gets {component} from {execution.target} too.",
                    "Take it out of that deployment: a fleet's components come from its rings alone.",
                )


def _refuse_parent(fleet: str, component: str) -> None:
    group = iot.find_group(fleet)
    latest = greengrass.latest_deployment(group.arn) if group else None
    if latest is not None and component in latest.components and latest.status != greengrass.CANCELLED:
        raise Conflict(
            f"The deployment of the whole fleet {fleet!r} names {component}.",
            "Take it out of that deployment: a fleet's components come from its rings alone.",
        )


def operator() -> str:
    """The name of whoever runs this command, as far as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "nobody"
