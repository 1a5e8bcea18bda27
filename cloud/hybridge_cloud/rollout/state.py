"""Where a rollout stands: the one record that controllers change, by conditional writes alone. Format 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from hybridge_cloud.rollout.baseline import Baseline
from hybridge_cloud.rollout.gap import Gap
from hybridge_cloud.rollout.plan import Plan
from hybridge_cloud.rollout.verdict import GateVerdict
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.states import Mode

FORMAT = 1


class Status(str, Enum):
    """Where a rollout stands. WAITING is for an operator's approval."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    WAITING = "WAITING"
    PUTTING_BACK = "PUTTING_BACK"
    SUCCEEDED = "SUCCEEDED"
    PUT_BACK = "PUT_BACK"
    STOPPED = "STOPPED"


ENDED = frozenset({Status.SUCCEEDED, Status.PUT_BACK, Status.STOPPED})
"""Nothing is written to a ring any more, unless an operator says so."""


class WaveStatus(str, Enum):
    """Where a wave stands. WRITTEN is the intent: its deployment may not be known yet."""

    PENDING = "PENDING"
    WRITTEN = "WRITTEN"
    PASSED = "PASSED"
    FAILED = "FAILED"
    PUT_BACK = "PUT_BACK"


@dataclass(frozen=True, slots=True)
class WaveState:
    """One wave.

    Attributes:
        epoch: with which it was written. deployment: that carries it, "" before it is known.
        written_at_ms: when that was, or when it was intended. settled_at_ms: when every device of it first had an end.
        cancelled: the deployment that a pause or a stop withdrew. cancel: the deployment that is to be withdrawn.
        advanced: whether an operator cut the rest of its bake.
        put_back_deployment: that carries the version before, "" before it is known. put_back_written_at_ms: as above.
        before: the ring's latest deployment when the wave was intended. foreign: one that somebody else wrote there.
        baseline: what its devices reported then; None but where a component is rolled out.
        mode: what its devices are asked for: SHADOW in its shadow stage, then ACTIVATE.
        shadowed: what its shadow stage was passed with.
    """

    ring: int
    status: WaveStatus = WaveStatus.PENDING
    epoch: int = 0
    deployment: str = ""
    written_at_ms: int = 0
    put_back_deployment: str = ""
    verdicts: tuple[GateVerdict, ...] = ()
    settled_at_ms: int = 0
    advanced: bool = False
    cancel: str = ""
    cancelled: str = ""
    put_back_written_at_ms: int = 0
    before: str = ""
    foreign: str = ""
    baseline: Baseline | None = None
    mode: Mode = Mode.ACTIVATE
    shadowed: tuple[GateVerdict, ...] = ()

    @property
    def is_reached(self) -> bool:
        """Whether a device of its ring may have been handed the version."""
        return self.status is not WaveStatus.PENDING

    def to_json(self) -> dict[str, object]:
        return {
            "ring": self.ring,
            "status": self.status.value,
            "epoch": self.epoch,
            "deployment": self.deployment,
            "written_at_ms": self.written_at_ms,
            "put_back_deployment": self.put_back_deployment,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "settled_at_ms": self.settled_at_ms,
            "advanced": self.advanced,
            "cancel": self.cancel,
            "cancelled": self.cancelled,
            "put_back_written_at_ms": self.put_back_written_at_ms,
            "before": self.before,
            "foreign": self.foreign,
            **({} if self.baseline is None else {"baseline": self.baseline.to_json()}),
            **({} if self.mode is Mode.ACTIVATE else {"mode": self.mode.value}),
            **({"shadowed": [verdict.to_json() for verdict in self.shadowed]} if self.shadowed else {}),
        }

    @classmethod
    def read(cls, reader: Reader) -> WaveState:
        return cls(
            ring=reader.integer("ring", maximum=names.RINGS - 1),
            status=WaveStatus(reader.text("status", check=_wave_status)),
            epoch=reader.integer("epoch"),
            deployment=reader.text("deployment"),
            written_at_ms=reader.integer("written_at_ms"),
            put_back_deployment=reader.text("put_back_deployment"),
            verdicts=reader.objects("verdicts", GateVerdict.read),
            settled_at_ms=reader.integer("settled_at_ms"),
            advanced=reader.boolean("advanced"),
            cancel=reader.text("cancel"),
            cancelled=reader.text("cancelled"),
            put_back_written_at_ms=reader.integer("put_back_written_at_ms"),
            before=reader.text("before"),
            foreign=reader.text("foreign"),
            baseline=reader.object("baseline", Baseline.read) if "baseline" in reader.names() else None,
            mode=Mode(reader.text("mode", Mode.ACTIVATE.value, check=_mode)),
            shadowed=reader.objects("shadowed", GateVerdict.read, ()),
        )


@dataclass(frozen=True, slots=True)
class DeviceException:
    """A device that is not where the rollout wants it, and why."""

    thing: str
    why: str

    @classmethod
    def read(cls, reader: Reader) -> DeviceException:
        return cls(reader.text("thing", check=names.thing_name), reader.text("why"))

    def to_json(self) -> dict[str, object]:
        return {"thing": self.thing, "why": self.why}


@dataclass(frozen=True, slots=True)
class State:
    """A rollout's state, in the order of its plan's waves.

    Attributes:
        epoch: of every wave. put_back_epoch: higher, taken beforehand, so that whoever puts back needs nothing else.
        shadow_epoch: lower than both, of every wave's shadow stage; 0 where there is none.
        reason: why it stands where it stands. approved: rings that an operator approved.
        exceptions: devices that are not where it wants them; they converge when they return, and are taken off.
        detected_at_ms: when a gate failed, or an operator aborted or rolled back. put_back_at_ms: when every device
            reached had the version before, or was listed.
        gaps: devices on which a component's update failed, and how long each had no healthy one.
    """

    id: str
    status: Status
    epoch: int
    waves: tuple[WaveState, ...]
    reason: str = ""
    exceptions: tuple[DeviceException, ...] = ()
    updated_at_ms: int = 0
    detected_at_ms: int = 0
    put_back_at_ms: int = 0
    put_back_epoch: int = 0
    approved: tuple[int, ...] = ()
    gaps: tuple[Gap, ...] = ()
    shadow_epoch: int = 0

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    def wave(self, ring: int) -> WaveState:
        """The state of a ring's wave. Raises InvalidDocument where it has none."""
        for wave in self.waves:
            if wave.ring == ring:
                return wave
        raise InvalidDocument(f"The rollout {self.id!r} has no wave of ring {ring}.")

    def with_wave(self, changed: WaveState) -> State:
        """The state with one wave replaced."""
        return replace(self, waves=tuple(changed if wave.ring == changed.ring else wave for wave in self.waves))

    def to_json(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "id": self.id,
            "status": self.status.value,
            "epoch": self.epoch,
            "waves": [wave.to_json() for wave in self.waves],
            "reason": self.reason,
            "exceptions": [item.to_json() for item in self.exceptions],
            "updated_at_ms": self.updated_at_ms,
            "detected_at_ms": self.detected_at_ms,
            "put_back_at_ms": self.put_back_at_ms,
            "put_back_epoch": self.put_back_epoch,
            "approved": list(self.approved),
            **({"gaps": [gap.to_json() for gap in self.gaps]} if self.gaps else {}),
            **({"shadow_epoch": self.shadow_epoch} if self.shadow_epoch else {}),
        }

    def to_bytes(self) -> bytes:
        """The canonical bytes of state.json."""
        return canonical(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> State:
        """Read state.json. Raises InvalidDocument with the field and the reason."""
        reader = parse(data, "rollout state")
        reader.format(FORMAT)
        state = cls(
            id=reader.text("id"),
            status=Status(reader.text("status", check=_status)),
            epoch=reader.integer("epoch"),
            waves=reader.objects("waves", WaveState.read),
            reason=reader.text("reason"),
            exceptions=reader.objects("exceptions", DeviceException.read),
            updated_at_ms=reader.integer("updated_at_ms"),
            detected_at_ms=reader.integer("detected_at_ms"),
            put_back_at_ms=reader.integer("put_back_at_ms"),
            put_back_epoch=reader.integer("put_back_epoch"),
            approved=reader.integers("approved"),
            gaps=reader.objects("gaps", Gap.read) if "gaps" in reader.names() else (),
            shadow_epoch=reader.integer("shadow_epoch", 0),
        )
        reader.close()
        return state


def planned(plan: Plan) -> State:
    """The state of a rollout that was planned and not started."""
    waves = tuple(WaveState(wave.ring) for wave in plan.waves)
    return State(plan.id, Status.PLANNED, 0, waves, updated_at_ms=plan.created_at_ms)


def _mode(text: str) -> str:
    if text not in (Mode.ACTIVATE.value, Mode.SHADOW.value):
        raise InvalidDocument(f"{text[:40]!r} is not what a wave asks for")
    return text


def _status(text: str) -> str:
    if text not in Status.__members__:
        raise InvalidDocument(f"{text[:40]!r} is not a rollout's status")
    return text


def _wave_status(text: str) -> str:
    if text not in WaveStatus.__members__:
        raise InvalidDocument(f"{text[:40]!r} is not a wave's status")
    return text
