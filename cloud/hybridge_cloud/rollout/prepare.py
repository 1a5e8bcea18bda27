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
    """The plan of rolling a published model or component out over the fleet's rings, not stored yet.

    Raises:
        Refused: no such fleet, no devices, not published, the fleet runs it, another rollout holds it, or a ring
            has no inference server. Conflict: a device gets the component from somewhere else too.
        UsageError: a model is named by its component.
    """
    found = fleet_record.read(bucket, fleet)
    if not target.is_model:
        return _component(bucket, fleet, target, found.prefix, limits, now_ms)
    new = registry.get(bucket, target.name, target.version)
    check_published(target, found.prefix)
    before = found.find(target.name)
    if before is not None and before.digest == new.digest:
        raise Refused(f"The fleet {fleet!r} runs {target.name} {before.version} already.", "Roll out another version.")
    rollouts.refuse_if_held(bucket, fleet, target.name)
    waves = _waves(fleet, target, found.prefix)
    return Plan(
        id=UNNUMBERED,
        fleet=fleet,
        model=target.name,
        version=target.version,
        digest=new.digest,
        previous_version=before.version if before else "",
        previous_digest=before.digest if before else "",
        comparison=_comparison(bucket, target, new.digest, before.digest) if before else None,
        waves=waves,
        limits=limits,
        created_at_ms=now_ms,
        created_by=operator(),
    )


def _component(bucket: Bucket, fleet: str, target: Target, prefix: str, limits: Limits, now_ms: int) -> Plan:
    """The plan of a component's rollout: what its rings run of it, their latest deployments say."""
    name = target.component(prefix)
    if limits.shadow is not None:
        raise UsageError(
            f"{name} is no model: a component cannot stand beside the version before.", "Leave `shadow` out."
        )
    if name.startswith(f"{prefix}.model."):
        model = name.removeprefix(f"{prefix}.model.")
        raise UsageError(f"{name} is the component of a model.", f"Roll out the model: {model}@{target.version}")
    check_published(target, prefix)
    before = deployed_version(fleet, name)
    if before == target.version:
        raise Refused(f"The fleet {fleet!r} runs {name} {before} already.", "Roll out another version.")
    rollouts.refuse_if_held(bucket, fleet, name)
    waves = _waves(fleet, target, prefix)
    versions = greengrass.component_versions(name)
    return Plan(
        id=UNNUMBERED,
        fleet=fleet,
        model=name,
        version=target.version,
        digest=sha256(greengrass.recipe_of(versions[target.version])),
        previous_version=before,
        previous_digest=_recipe_digest(name, before, versions) if before else "",
        comparison=None,
        waves=waves,
        limits=limits,
        created_at_ms=now_ms,
        created_by=operator(),
    )


def deployed_version(fleet: str, component: str) -> str:
    """The version that every ring of a fleet is asked to run, "" where none names the component.

    Raises:
        Refused: the rings are not asked for the same.
    """
    found = {}
    for ring in membership.rings(fleet):
        latest = greengrass.latest_deployment(ring.arn)
        if ring.devices or latest is not None:
            wanted = latest.components.get(component) if latest is not None else None
            found[ring.number] = wanted.version if wanted is not None else ""
    if len(set(found.values())) > 1:
        said = ", ".join(f"ring {ring} {version or 'none'}" for ring, version in found.items())
        raise Refused(
            f"The rings of {fleet!r} run different versions of {component}: {said}.",
            f"Make them alike first: hybridge deploy {component}@VERSION --fleet {fleet}",
        )
    return next(iter(found.values()), "")


def _recipe_digest(name: str, version: str, versions: dict[str, str]) -> str:
    """Raises Refused where the version that would be put back is gone from the account."""
    if version not in versions:
        raise Refused(
            f"{name} {version}, which runs now, is not in the account any more: it could not be put back.",
            "Publish it again under that version, or use hybridge deploy, which puts nothing back.",
        )
    return sha256(greengrass.recipe_of(versions[version]))


def _waves(fleet: str, target: Target, prefix: str) -> tuple[Wave, ...]:
    waves = []
    for ring in membership.rings(fleet):
        latest = greengrass.latest_deployment(ring.arn)
        if not ring.devices and latest is None:
            continue
        revised(latest.components if latest else {}, [target], [], prefix, "", 0, Mode.ACTIVATE)
        _refuse_overlap(ring, target.component(prefix))
        waves.append(Wave(ring.number, ring.group, ring.devices))
    if not waves or not waves[0].devices:
        raise Refused(
            f"The fleet {fleet!r} has no device to begin with.",
            f"Enrol one into its first ring: hybridge sandbox device add NAME --fleet {fleet} --ring 0",
        )
    _refuse_parent(fleet, target.component(prefix))
    return tuple(waves)


def refuse_if_outdated(bucket: Bucket, plan: Plan) -> None:
    """Raise Refused where the fleet is meant to run another version by now than the one that a plan replaces."""
    version, digest = _runs(bucket, plan)
    if digest != plan.previous_digest:
        raise Refused(
            f"{plan.id} was planned to replace {plan.previous_version or 'nothing'}, and the fleet {plan.fleet!r} runs "
            f"{version or 'nothing'} of {plan.model} by now.",
            f"Abort it and plan again: hybridge rollout abort {plan.id} --fleet {plan.fleet}",
        )


def runs_now(bucket: Bucket, plan: Plan) -> tuple[str, bool]:
    """The version that a fleet is meant to run of what a plan changes, "" for none, and whether it is the plan's."""
    version, digest = _runs(bucket, plan)
    return version, digest == plan.digest


def _runs(bucket: Bucket, plan: Plan) -> tuple[str, str]:
    """Version and digest; of a component the plan's own digests stand for its versions, which nobody can change."""
    if plan.is_component:
        version = deployed_version(plan.fleet, plan.model)
        return version, {plan.version: plan.digest, plan.previous_version: plan.previous_digest}.get(version, version)
    found = fleet_record.read(bucket, plan.fleet).find(plan.model)
    return (found.version, found.digest) if found else ("", "")


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
