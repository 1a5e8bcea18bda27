"""Rollouts in S3: a plan written once, a state replaced conditionally, an audit that only grows, and who holds a model.

``plan.json`` is written last when a rollout is made, so one that has it is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridge_cloud.aws.s3 import Bucket, ObjectMissing
from hybridge_cloud.components.build import COMPONENTS
from hybridge_cloud.fleet import record as fleet_record
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.state import State, Status, planned
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Conflict, Refused

FORMAT = 1
PLAN_FILE, STATE_FILE = "plan.json", "state.json"
MAX_TRIES = 50
"""Of a conditional put; each loss means that another command got through."""
MAX_NUMBER = 999_999
"""Of rollouts of one version, and of audit entries of one rollout."""


@dataclass(frozen=True, slots=True)
class Record:
    """A rollout as it is stored; ``etag`` of its state."""

    plan: Plan
    state: State
    etag: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the audit: when, who, where the rollout stood then, and what was said or done."""

    number: int
    at_ms: int
    who: str
    status: str
    lines: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "number": self.number,
            "at_ms": self.at_ms,
            "who": self.who,
            "status": self.status,
            "lines": list(self.lines),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Entry:
        reader = parse(data, "audit entry")
        reader.format(FORMAT)
        entry = cls(
            reader.integer("number"),
            reader.integer("at_ms"),
            reader.text("who"),
            reader.text("status"),
            reader.strings("lines"),
        )
        reader.close()
        return entry


def create(bucket: Bucket, plan: Plan) -> Record:
    """Store a new rollout under the first free number of its version; ``plan.id`` is set to that.

    Raises:
        Conflict: others took MAX_TRIES numbers in a row.
    """
    taken = set(_ids(bucket, plan.fleet))
    number = 1
    for _ in range(MAX_TRIES):
        while (name := f"{plan.model}-{plan.version}-{number}") in taken:
            number += 1
        numbered = replace(plan, id=names.rollout_id(name))
        state = planned(numbered)
        try:
            etag = bucket.put(_state_key(numbered.fleet, name), state.to_bytes(), only_if_absent=True)
            bucket.put(names.rollout_key(plan.fleet, name, PLAN_FILE), numbered.to_bytes(), only_if_absent=True)
            return Record(numbered, state, etag)
        except Conflict:
            number += 1
    raise Conflict(f"Rollouts of {plan.model} {plan.version} are planned by too many commands at once.", "Try again.")


def read(bucket: Bucket, fleet: str, rollout: str) -> Record:
    """A rollout. Raises Refused where there is none of that id."""
    try:
        plan = Plan.from_bytes(bucket.get(names.rollout_key(fleet, rollout, PLAN_FILE)))
        state, etag = bucket.get_with_etag(_state_key(fleet, rollout))
    except ObjectMissing:
        raise Refused(
            f"The fleet {fleet!r} has no rollout {rollout!r}.", f"See them: hybridge rollout list --fleet {fleet}"
        ) from None
    return Record(plan, State.from_bytes(state), etag)


def find(bucket: Bucket, fleet: str, what: str) -> Record:
    """A rollout by its id, or the newest one of NAME@VERSION. Raises Refused where there is none."""
    found = newest(bucket, fleet, what) if "@" in what else read(bucket, fleet, what)
    if found is None:
        raise Refused(
            f"The fleet {fleet!r} has no rollout of {what}.", f"Plan one: hybridge rollout plan {what} --fleet {fleet}"
        )
    return found


def newest(bucket: Bucket, fleet: str, what: str) -> Record | None:
    """The newest rollout of MODEL@VERSION or COMPONENT@VERSION, or None."""
    name, _, version = what.partition("@")
    stem = f"{_held_name(bucket, fleet, name)}-{names.version(version)}-"
    found = [name for name in _ids(bucket, fleet) if name.startswith(stem) and name[len(stem) :].isdecimal()]
    return read(bucket, fleet, max(found, key=lambda name: int(name[len(stem) :]))) if found else None


def all_rollouts(bucket: Bucket, fleet: str) -> tuple[Record, ...]:
    """Every rollout of a fleet, oldest first."""
    found = [read(bucket, fleet, name) for name in _ids(bucket, fleet)]
    return tuple(sorted(found, key=lambda record: (record.plan.created_at_ms, record.plan.id)))


def store(bucket: Bucket, record: Record, state: State) -> Record:
    """Replace a rollout's state. Raises Conflict where it is not the one that was read any more."""
    if state == record.state:
        return record
    etag = bucket.put(_state_key(record.plan.fleet, record.plan.id), state.to_bytes(), if_match=record.etag)
    return replace(record, state=state, etag=etag)


def change(bucket: Bucket, record: Record, changed: Callable[[Record], State]) -> tuple[Record, Record]:
    """Change a rollout's state by a function of what is stored, called again whenever another writer was faster.

    Returns:
        The record right before and after; the same state in both where there was nothing to change.

    Raises:
        Conflict: others got through MAX_TRIES times in a row. And whatever ``changed`` raises.
    """
    for _ in range(MAX_TRIES):
        record = read(bucket, record.plan.fleet, record.plan.id)
        try:
            return record, store(bucket, record, changed(record))
        except Conflict:
            continue
    raise Conflict(f"The rollout {record.plan.id} is changed by too many commands at once.", "Try again.")


def note(bucket: Bucket, record: Record, at_ms: int, who: str, lines: tuple[str, ...]) -> None:
    """Add an entry to the audit, under the next number. An audit that is full takes no more."""
    fleet, rollout = record.plan.fleet, record.plan.id
    number = 1 + max((_number(key) for key, _, _ in bucket.list(_audit_prefix(fleet, rollout))), default=0)
    while number <= MAX_NUMBER:
        entry = Entry(number, at_ms, who, record.state.status.value, lines)
        try:
            bucket.put(names.rollout_audit_key(fleet, rollout, number), canonical(entry.to_json()), only_if_absent=True)
            return
        except Conflict:
            number += 1


def audit(bucket: Bucket, fleet: str, rollout: str) -> tuple[Entry, ...]:
    """The audit of a rollout, oldest first."""
    return tuple(Entry.from_bytes(bucket.get(key)) for key, _, _ in bucket.list(_audit_prefix(fleet, rollout)))


def claim(bucket: Bucket, record: Record) -> None:
    """Hold a model or component of a fleet for this rollout until it ends. Claiming it again changes nothing.

    Raises:
        Refused: another rollout that has not ended holds it.
    """
    key = names.rollout_claim_key(record.plan.fleet, record.plan.model)
    wanted = canonical({"format": FORMAT, "rollout": record.plan.id})
    for _ in range(MAX_TRIES):
        try:
            data, etag = bucket.get_with_etag(key)
        except ObjectMissing:
            data, etag = b"", ""
        if data == wanted:
            return
        if data:
            refuse_if_held(bucket, record.plan.fleet, record.plan.model)
        try:
            bucket.put(key, wanted, **({"if_match": etag} if etag else {"only_if_absent": True}))
            return
        except Conflict:
            continue
    raise Conflict(f"{record.plan.model} is claimed by too many rollouts at once.", "Try again.")


def holder_of(bucket: Bucket, fleet: str, model: str) -> Record | None:
    """The rollout that holds a model of a fleet, or None where none does that has not ended."""
    try:
        reader = parse(bucket.get(names.rollout_claim_key(fleet, model)), "claim of a rollout")
    except ObjectMissing:
        return None
    reader.format(FORMAT)
    record = read(bucket, fleet, reader.text("rollout", check=names.rollout_id))
    return None if record.state.is_over else record


def refuse_if_held(bucket: Bucket, fleet: str, model: str) -> None:
    """Raise Refused where a rollout that has not ended holds a model of a fleet."""
    held = holder_of(bucket, fleet, model)
    if held is not None:
        what = "component" if held.plan.is_component else "model"
        raise Refused(
            f"The rollout {held.plan.id} of {held.plan.model} {held.plan.version} holds this {what} of the fleet "
            f"{fleet!r}: it is {held.state.status.value}.",
            f"Let it end, or abort it: hybridge rollout abort {held.plan.id} --fleet {fleet}",
        )


def others_running(bucket: Bucket, record: Record) -> tuple[str, ...]:
    """Ids of the fleet's other rollouts that hold a model."""
    prefix = names.rollout_claim_key(record.plan.fleet, "x").rpartition("/")[0] + "/"
    models = [key.rpartition("/")[2].removesuffix(".json") for key, _, _ in bucket.list(prefix)]
    held = [holder_of(bucket, record.plan.fleet, model) for model in models if model != record.plan.model]
    return tuple(item.plan.id for item in held if item is not None and item.state.status is not Status.PLANNED)


def _held_name(bucket: Bucket, fleet: str, name: str) -> str:
    """The name by which rollouts know a model or a component: of one of ours, a short name is enough."""
    if name in COMPONENTS:
        return f"{fleet_record.read(bucket, fleet).prefix}.{name}"
    return names.component_name(name) if "." in name else names.model_name(name)


def _ids(bucket: Bucket, fleet: str) -> tuple[str, ...]:
    keys = [key for key, _, _ in bucket.list(names.rollouts_prefix(fleet)) if key.endswith("/" + PLAN_FILE)]
    return tuple(key.split("/")[-2] for key in keys)


def _state_key(fleet: str, rollout: str) -> str:
    return names.rollout_key(fleet, rollout, STATE_FILE)


def _audit_prefix(fleet: str, rollout: str) -> str:
    return names.rollout_audit_key(fleet, rollout, 0).rpartition("/")[0] + "/"


def _number(key: str) -> int:
    return int(key.rpartition("/")[2].removesuffix(".json"))
