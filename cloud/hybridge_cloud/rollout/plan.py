"""What a rollout is to do, written once: the versions, the waves in their order, and the limits it is judged by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from hybridge_cloud.rollout.shadow_stage import MAX_COUNT, MAX_SECONDS, ShadowStage
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.expectations import Comparison

FORMAT = 1
MAX_LIMITS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator may set in rollout.yaml; each name is a key there.

    Attributes:
        bake_seconds: a wave is watched this long after its last device has settled.
        report_seconds: a device that said nothing for this long is silent.
        deadline_seconds: a wave that could not pass this long after it was written has failed; so has a device that
            was to be put back.
        minimum_requests: answers of a wave's devices together, before errors and guards can pass. 200 are enough for
            what fails every tenth request; to tell three in a hundred from the one that is allowed takes some 3,000.
        minimum_probes: probes a device must have answered with both versions to be judged by them; 0 asks for none,
            which lets a rollout pass without a comparison.
        minimum_live: live rows that both versions answered, of a wave's devices together. Live rows are evidence beside
            the probes: they fail a wave from the first on, and are waited for only where this is not 0.
        failed_devices: devices of a wave that may refuse, fail or stay silent before the wave has failed.
        error_rate: the most requests that may fail, a share. guard_rate: the most answers that a guard may object to.
        slower_share: the most paired runs, a share, in which the new version may take more than
            `hybridge_edge.contract.report.SLOWER` times as long.
        disagreement_margin: what a device may disagree beyond what was measured at evaluation, absolute.
        alpha: the chance that one gate fails a wave on one device or count of it although the model keeps its limit.
        approve: rings that an operator must approve before they are written.
        shadow: the stage in which the version only answers beside the one before; None for none.
    """

    bake_seconds: int = 600
    report_seconds: int = 900
    deadline_seconds: int = 7200
    minimum_requests: int = 200
    minimum_probes: int = 50
    minimum_live: int = 0
    failed_devices: int = 0
    error_rate: float = 0.01
    guard_rate: float = 0.001
    slower_share: float = 0.5
    disagreement_margin: float = 0.05
    alpha: float = 0.001
    approve: tuple[int, ...] = ()
    shadow: ShadowStage | None = None

    def __post_init__(self) -> None:
        for name in ("error_rate", "guard_rate", "slower_share", "alpha"):
            if not 0 < getattr(self, name) < 1:
                _refuse(name, "must lie between 0 and 1, both excluded")
        if not 0 <= self.disagreement_margin < 1:
            _refuse("disagreement_margin", "must be at least 0 and less than 1")
        if self.report_seconds < 1:
            _refuse("report_seconds", "must be at least 1")
        if self.deadline_seconds <= self.bake_seconds:
            _refuse("deadline_seconds", f"must be more than bake_seconds, which is {self.bake_seconds}")
        if self.shadow is not None and self.shadow.wait_seconds >= self.deadline_seconds:
            _refuse("shadow.wait_seconds", f"must be less than deadline_seconds, which is {self.deadline_seconds}")
        if self.minimum_requests < 1:
            _refuse("minimum_requests", "must be at least 1: silence never passes")
        if not all(0 <= ring < names.RINGS for ring in self.approve) or len(set(self.approve)) != len(self.approve):
            _refuse("approve", f"must list rings from 0 to {names.RINGS - 1}, each once")

    def to_json(self) -> dict[str, object]:
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "shadow"}
        shadow = {} if self.shadow is None else {"shadow": self.shadow.to_json()}
        return {**values, **shadow, "approve": list(self.approve)}

    @classmethod
    def read(cls, reader: Reader) -> Limits:
        """Read what is there; what is not has its default. Raises InvalidDocument with the field's name."""
        standard = cls()

        def seconds(name: str) -> int:
            return reader.integer(name, getattr(standard, name), maximum=MAX_SECONDS)

        def count(name: str) -> int:
            return reader.integer(name, getattr(standard, name), maximum=MAX_COUNT)

        def share(name: str) -> float:
            return reader.number(name, getattr(standard, name))

        return cls(
            bake_seconds=seconds("bake_seconds"),
            report_seconds=seconds("report_seconds"),
            deadline_seconds=seconds("deadline_seconds"),
            minimum_requests=count("minimum_requests"),
            minimum_probes=count("minimum_probes"),
            minimum_live=count("minimum_live"),
            failed_devices=count("failed_devices"),
            error_rate=share("error_rate"),
            guard_rate=share("guard_rate"),
            slower_share=share("slower_share"),
            disagreement_margin=share("disagreement_margin"),
            alpha=share("alpha"),
            approve=reader.integers("approve", ()),
            shadow=reader.object("shadow", ShadowStage.read) if "shadow" in reader.names() else None,
        )


def read_limits(path: Path | None) -> Limits:
    """The limits in a rollout.yaml; the defaults where there is none.

    Raises:
        InvalidDocument: it cannot be read, a key is not known, or a value is none that its key may have.
    """
    if path is None:
        return Limits()
    import yaml

    what = f"file {path.name}"
    try:
        data = path.read_bytes()
        if len(data) > MAX_LIMITS_BYTES:
            raise InvalidDocument(f"The {what} is {len(data)} bytes; {MAX_LIMITS_BYTES} are allowed.")
        document = yaml.safe_load(data)
    except OSError as error:
        raise InvalidDocument(
            f"The {what} cannot be read: {error.strerror}.", "Give the path of a YAML file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidDocument(f"The {what} is not YAML: {line}.", "Write one `name: value` a line.") from None
    reader = Reader({} if document is None else document, what)
    limits = Limits.read(reader)
    if unknown := reader.names():
        known = ", ".join(field.name for field in fields(Limits))
        raise InvalidDocument(f"The {what} has a key that is none: {unknown[0]!r}.", f"Use {known}.")
    return limits


def _refuse(name: str, reason: str) -> None:
    raise InvalidDocument(f"The limit {name!r} of a rollout {reason}.", "Change it in the rollout's YAML file.")


@dataclass(frozen=True, slots=True)
class Wave:
    """One revision of one ring: its number, thing group, and the devices in it when the plan was made."""

    ring: int
    group: str
    devices: tuple[str, ...]

    @classmethod
    def read(cls, reader: Reader) -> Wave:
        return cls(
            reader.integer("ring", maximum=names.RINGS - 1),
            reader.text("group", check=names.thing_name),
            reader.strings("devices"),
        )

    def to_json(self) -> dict[str, object]:
        return {"ring": self.ring, "group": self.group, "devices": list(self.devices)}


@dataclass(frozen=True, slots=True)
class Plan:
    """A rollout, format 1. It never changes once it is written.

    Attributes:
        model: the model's name, or the full name, with its dots, of a component.
        version, digest: what is rolled out; the digest of a component is its recipe's. previous_version,
            previous_digest: what runs before and is put back; both "" where the fleet never had it.
        comparison: how often the package disagreed with the previous one at evaluation; None where nobody measured it.
        waves: in the order in which they are written; the first has a device.
        created_at_ms: Unix time. created_by: who asked for it.
    """

    id: str
    fleet: str
    model: str
    version: str
    digest: str
    previous_version: str
    previous_digest: str
    comparison: Comparison | None
    waves: tuple[Wave, ...]
    limits: Limits
    created_at_ms: int
    created_by: str

    def __post_init__(self) -> None:
        if not self.waves or not self.waves[0].devices:
            raise InvalidDocument(f"The rollout {self.id!r} has no device to begin with.", "Enrol one in ring 0.")
        rings = [wave.ring for wave in self.waves]
        if rings != sorted(set(rings)):
            raise InvalidDocument(f"The waves of the rollout {self.id!r} are not in the order of their rings.")
        things = [thing for wave in self.waves for thing in wave.devices]
        if len(set(things)) != len(things):
            raise InvalidDocument(f"The rollout {self.id!r} has a device in two waves.")
        if bool(self.previous_version) != bool(self.previous_digest) or self.previous_digest == self.digest:
            raise InvalidDocument(f"The rollout {self.id!r} does not say what it replaces.")

    @property
    def is_first(self) -> bool:
        """Whether there is no version before, and so nothing to compare with or to put back."""
        return not self.previous_version

    @property
    def title(self) -> str:
        """What people call it: MODEL@VERSION or COMPONENT@VERSION."""
        return f"{self.model}@{self.version}"

    @property
    def is_component(self) -> bool:
        """Whether a component is rolled out, not a model."""
        return "." in self.model

    def has_shadow(self, ring: int) -> bool:
        """Whether a ring has a shadow stage: a first version has nothing to stand beside, and a component no shadow."""
        stage = self.limits.shadow
        if stage is None or self.is_first or self.is_component:
            return False
        return not stage.rings or ring in stage.rings

    def component(self, prefix: str) -> str:
        """The full name of the component that carries it, in a fleet whose components' names begin with ``prefix``."""
        return self.model if self.is_component else names.ComponentNames(prefix).model(self.model)

    def wave(self, ring: int) -> Wave:
        """The wave of a ring. Raises InvalidDocument where it has none."""
        for wave in self.waves:
            if wave.ring == ring:
                return wave
        raise InvalidDocument(f"The rollout {self.id!r} has no wave of ring {ring}.")

    def to_json(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "id": self.id,
            "fleet": self.fleet,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "previous_version": self.previous_version,
            "previous_digest": self.previous_digest,
            **({} if self.comparison is None else {"comparison": self.comparison.to_json()}),
            "waves": [wave.to_json() for wave in self.waves],
            "limits": self.limits.to_json(),
            "created_at_ms": self.created_at_ms,
            "created_by": self.created_by,
        }

    def to_bytes(self) -> bytes:
        """The canonical bytes of plan.json."""
        return canonical(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read plan.json. Raises InvalidDocument with the field and the reason."""
        reader = parse(data, "rollout plan")
        reader.format(FORMAT)
        previous_version = reader.text("previous_version")
        previous_digest = reader.text("previous_digest")
        plan = cls(
            id=reader.text("id"),
            fleet=reader.text("fleet", check=names.fleet_name),
            model=reader.text("model", check=_model_or_component),
            version=reader.text("version", check=names.version),
            digest=reader.text("digest", check=names.digest),
            previous_version=names.version(previous_version) if previous_version else "",
            previous_digest=names.digest(previous_digest) if previous_digest else "",
            comparison=reader.object("comparison", Comparison.read) if "comparison" in reader.names() else None,
            waves=reader.objects("waves", Wave.read),
            limits=reader.object("limits", Limits.read),
            created_at_ms=reader.integer("created_at_ms"),
            created_by=reader.text("created_by"),
        )
        reader.close()
        return plan


def _model_or_component(text: str) -> str:
    return names.component_name(text) if "." in text else names.model_name(text)
