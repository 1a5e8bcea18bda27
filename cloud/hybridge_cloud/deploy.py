"""Deploy component versions to every device of a fleet, ring by ring, and follow each device to its stated end.

A deployment replaces its ring's whole component list, so each is written as the ring's latest one with the named
components changed. Greengrass' verdict means only "handed over": a model is deployed where the device's own report says
so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridge_cloud import registry
from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.greengrass import Wanted
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.components.build import COMPONENTS
from hybridge_cloud.fleet import membership
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.fleet.membership import Ring
from hybridge_cloud.fleet.record import FleetModel
from hybridge_cloud.rollout import lease as leases
from hybridge_cloud.rollout import record as rollouts
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import InvalidDocument, Refused, UsageError
from hybridge_edge.contract.states import Mode

MAX_MERGE_BYTES = 7_000
"""Of one component's configuration; AWS allows 10,000 bytes, and a nucleus keeps more beside it."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to deploy: ``name`` is a model's name, a short name of ours, or a component's full name, with its dots."""

    name: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read NAME@VERSION. Raises UsageError."""
        name, at, version = text.partition("@")
        if not at or not name:
            raise UsageError(f"{text!r} does not name a version.", "Write NAME@VERSION, such as watch@1.0.0.")
        return cls(name, names.version(version))

    @property
    def is_model(self) -> bool:
        return self.name not in COMPONENTS and "." not in self.name

    def component(self, prefix: str) -> str:
        """The full name of its component."""
        if self.is_model:
            return names.ComponentNames(prefix).model(self.name)
        return names.component_name(self.name) if "." in self.name else f"{prefix}.{self.name}"

    def held(self, prefix: str) -> str:
        """The name under which a rollout holds it: the model's, or the component's full one."""
        return self.name if self.is_model else self.component(prefix)


@dataclass(frozen=True, slots=True)
class Setting:
    """A configuration value of one component; dots in ``key`` lead into objects."""

    name: str
    key: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read COMPONENT:key=value. Raises UsageError."""
        name, colon, rest = text.partition(":")
        key, equals, value = rest.partition("=")
        if not (colon and equals and name and all(key.split("."))):
            raise UsageError(f"{text!r} is not a setting.", "Write COMPONENT:key=value, such as SampleUplink:bucket=b.")
        if key.split(".")[0] == "hybridge":
            raise UsageError(f"{text!r} sets what deploy itself writes.", "Leave the key 'hybridge' out.")
        return cls(name, key, value)


@dataclass(frozen=True, slots=True)
class RingDeployment:
    """The deployment that was written for one ring."""

    ring: Ring
    id: str


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deploy wrote: one deployment a ring, all with one rollout id and one epoch."""

    fleet: str
    rollout: str
    epoch: int
    models: tuple[FleetModel, ...]
    rings: tuple[RingDeployment, ...]


def deploy(
    fleet: str, targets: Sequence[Target], settings: Sequence[Setting], bucket: Bucket, mode: Mode = Mode.ACTIVATE
) -> Deployed:
    """Write the next deployment of every ring that holds a device or had a deployment before.

    Raises:
        Refused: no such fleet, no devices, a version that is not published, a model without a server beside it, or one
            that a rollout holds. LeaseHeld: a rollout is writing one of the rings.
        UsageError: a component named twice, or a setting of a component that no ring has.
    """
    record = fleet_record.read(bucket, fleet)
    if not targets or len({target.name for target in targets}) != len(targets):
        raise UsageError("Name each component once.", "Write NAME@VERSION for each.")
    digests = {target.name: registry.get(bucket, target.name, target.version).digest
               for target in targets if target.is_model}  # fmt: skip
    for target in targets:
        rollouts.refuse_if_held(bucket, fleet, target.held(record.prefix))
        check_published(target, record.prefix)
    latest = {ring: greengrass.latest_deployment(ring.arn) for ring in membership.rings(fleet)}
    chosen = {ring: found.components if found else {} for ring, found in latest.items() if ring.devices or found}
    if not any(ring.devices for ring in chosen):
        raise Refused(
            f"The fleet {fleet!r} has no device.", f"Enrol one: hybridge sandbox device add NAME --fleet {fleet}"
        )
    _check_settings(settings, targets, chosen, record.prefix)
    # Every check is made before the first ring is touched; the epoch is taken once for all of them.
    for before in chosen.values():
        revised(before, targets, settings, record.prefix, "", 0, mode)
    epoch = fleet_record.next_epoch(bucket, fleet)
    rollout = f"{fleet}-{epoch}"
    written, holder = [], leases.holder_name()
    for ring in chosen:
        with leases.held(bucket, ring.group, holder) as lease:
            found = greengrass.latest_deployment(ring.arn)
            after = revised(found.components if found else {}, targets, settings, record.prefix, rollout, epoch, mode)
            lease.intend(rollout, found.id if found else "")
            created = greengrass.create_deployment(ring.arn, rollout, after)
            lease.accept(created)
            written.append(RingDeployment(ring, created))
    models = tuple(FleetModel(target.name, target.version, digests[target.name], rollout, epoch)
                   for target in targets if target.is_model)  # fmt: skip
    for model in models:
        fleet_record.change(bucket, fleet, lambda found, model=model: found.with_model(model))  # type: ignore[misc]
    return Deployed(fleet, rollout, epoch, models, tuple(written))


def revised(
    before: Mapping[str, Wanted],
    targets: Sequence[Target],
    settings: Sequence[Setting],
    prefix: str,
    rollout: str,
    epoch: int,
    mode: Mode,
) -> dict[str, Wanted]:
    """A ring's component list with the named components changed and every other one as it was. Pure.

    Raises:
        Refused: a model would be deployed to a ring whose list does not name the inference server.
    """
    after = dict(before)
    for target in targets:
        name = target.component(prefix)
        found = before.get(name)
        merge = _object(found.merge if found else "")
        if target.is_model:
            merge["hybridge"] = {"rollout": rollout, "epoch": str(epoch), "mode": mode.value}
        after[name] = Wanted(target.version, _text(merge), found.reset if found else ())
    for setting in settings:
        name = Target(setting.name, "0.0.0").component(prefix)
        if name not in after:
            continue
        merge = _object(after[name].merge)
        _set(merge, setting.key.split("."), setting.value)
        after[name] = Wanted(after[name].version, _text(merge), after[name].reset)
    full_names = names.ComponentNames(prefix)
    if full_names.inference_server not in after and any(target.is_model for target in targets):
        raise Refused(
            f"A ring would get a model without naming {full_names.inference_server} beside it.",
            "Name the server too: hybridge deploy InferenceServer@VERSION MODEL@VERSION --fleet FLEET",
        )
    return after


def check_published(target: Target, prefix: str) -> None:
    """Raise Refused where a version cannot be deployed."""
    name = target.component(prefix)
    found = greengrass.find_component(name, target.version)
    if found is None or found.state != "DEPLOYABLE":
        what = f"is {found.state}" if found else "is not published"
        how = "hybridge publish PKG --fleet FLEET" if target.is_model else "hybridge components publish"
        raise Refused(f"{name} {target.version} {what}.", f"Publish it: {how}")


def _check_settings(
    settings: Sequence[Setting],
    targets: Sequence[Target],
    chosen: Mapping[Ring, Mapping[str, Wanted]],
    prefix: str,
) -> None:
    known = {target.component(prefix) for target in targets}.union(*chosen.values())
    for setting in settings:
        if Target(setting.name, "0.0.0").component(prefix) not in known:
            raise UsageError(f"No ring has a component {setting.name!r} to set {setting.key!r} of.", "Deploy it too.")


def _object(merge: str) -> dict[str, object]:
    found = json.loads(merge) if merge else {}
    if not isinstance(found, dict):
        raise InvalidDocument("A deployment's configuration merge is not a JSON object.", "Write it again.")
    return found


def _text(merge: dict[str, object]) -> str:
    text = json.dumps(merge, sort_keys=True, separators=(",", ":")) if merge else ""
    if len(text) > MAX_MERGE_BYTES:
        raise InvalidDocument(f"A component's configuration is {len(text)} bytes; {MAX_MERGE_BYTES} are allowed.")
    return text


def _set(merge: dict[str, object], path: list[str], value: str) -> None:
    for part in path[:-1]:
        below = merge.setdefault(part, {})
        if not isinstance(below, dict):
            raise UsageError(f"{part!r} is a value, not an object.", "Set it by its own name.")
        merge = below
    merge[path[-1]] = value
