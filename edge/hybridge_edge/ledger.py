"""What the store remembers of each model: what runs, what ran before, what is wanted, what may not run. Format 1."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.handover import BY_HAND, Handover
from hybridge_edge.contract.states import Mode

FORMAT = 1
MAX_LEDGER_BYTES = 1024 * 1024
MAX_MODELS = 64
MAX_VERDICTS = 64
"""Verdicts kept a model; the oldest is forgotten first."""
MAX_HISTORY = 32
MAX_SWITCHES = 8
MAX_REASON = 500
NO_ROLLOUT = frozenset({"", "none", BY_HAND})
"""Given by hand-overs of no rollout: by nobody, by the recipe's default, by ``hybridge-edge activate``."""
UNKNOWN_VERSION = "0.0.0"
"""Of a package whose manifest nobody could read or believe."""


def _mode(text: str) -> str:
    if text not in {mode.value for mode in Mode}:
        raise InvalidDocument(f"{text[:40]!r} is not a mode")
    return text


@dataclass(frozen=True, slots=True)
class Wanted:
    """The last hand-over obeyed: a higher epoch replaces it, an equal one is a no-op."""

    digest: str
    rollout: str
    epoch: int
    mode: Mode

    @property
    def judged(self) -> bool:
        """Whether it belongs to a rollout, which somebody judges by reports."""
        return self.rollout not in NO_ROLLOUT

    @classmethod
    def of(cls, handover: Handover) -> Wanted:
        return cls(handover.digest, handover.rollout, handover.epoch, handover.mode)

    def to_json(self) -> dict[str, object]:
        return {"digest": self.digest, "rollout": self.rollout, "epoch": self.epoch, "mode": self.mode.value}

    @classmethod
    def read(cls, reader: Reader) -> Wanted:
        return cls(
            reader.text("digest", check=names.digest),
            reader.text("rollout"),
            reader.integer("epoch"),
            Mode(reader.text("mode", check=_mode)),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a digest may not run, and the epoch at which that was found; a higher epoch lifts it.

    ``step`` is the activation's, "" where none refused it.
    """

    digest: str
    version: str
    reason: str
    epoch: int
    step: str = ""

    def to_json(self) -> dict[str, object]:
        step = {"step": self.step} if self.step else {}
        return {"digest": self.digest, "version": self.version, "reason": self.reason, "epoch": self.epoch, **step}

    @classmethod
    def read(cls, reader: Reader) -> Verdict:
        return cls(
            reader.text("digest", check=names.digest),
            reader.text("version"),
            reader.text("reason"),
            reader.integer("epoch"),
            reader.text("step", ""),
        )


@dataclass(frozen=True, slots=True)
class Installed:
    """A package by digest, with its version for people."""

    digest: str
    version: str

    def to_json(self) -> dict[str, object]:
        return {"digest": self.digest, "version": self.version}

    @classmethod
    def read(cls, reader: Reader) -> Installed:
        return cls(reader.text("digest", check=names.digest), reader.text("version", check=names.version))


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One model of this device.

    Attributes:
        active: what answers; None before the first activation and once retired.
        previous: what answered before, kept on disk to be put back; None once it was, since what was left behind then
            is nothing to go back to.
        trusted: the active digest has passed its first runs.
        quarantined: crashed or rolled back here. refused: never got so far. history: activations, oldest first.
        switches: when the device itself switched to another package, seconds of the wall clock, oldest first.
    """

    model: str
    active: Installed | None = None
    previous: Installed | None = None
    wanted: Wanted | None = None
    trusted: bool = False
    quarantined: tuple[Verdict, ...] = ()
    refused: tuple[Verdict, ...] = ()
    history: tuple[Installed, ...] = ()
    switches: tuple[int, ...] = ()

    @property
    def epoch(self) -> int:
        return self.wanted.epoch if self.wanted else 0

    @property
    def retired(self) -> bool:
        """Whether it was asked to answer no more."""
        return self.active is None and self.wanted is not None and self.wanted.mode is Mode.RETIRE

    @property
    def shadow(self) -> str:
        """The digest that is to stand beside the active one, "" for none: asked for, not active, under no verdict."""
        wanted, active = self.wanted, self.active
        if wanted is None or wanted.mode is not Mode.SHADOW or active is None or active.digest == wanted.digest:
            return ""
        verdicts = (self.quarantine_of(wanted.digest), self.refusal_of(wanted.digest))
        return "" if any(one is not None and one.epoch >= wanted.epoch for one in verdicts) else wanted.digest

    @property
    def should_answer(self) -> bool:
        """Whether something of this model answers, or did and was taken away by a fault."""
        return self.active is not None or (bool(self.history) and not self.retired)

    def kept_digests(self) -> set[str]:
        """Packages that garbage collection must leave."""
        kept = {item.digest for item in (self.active, self.previous) if item is not None}
        return kept | ({self.wanted.digest} if self.wanted and self.wanted.mode is not Mode.RETIRE else set())

    def fallbacks(self) -> tuple[Installed, ...]:
        """What may answer in the active package's stead: the previous one, then good ones of history, newest first.

        Good is what answered here, stands under no verdict, and was not left behind: replaced by the very package that
        it had replaced.
        """
        if self.retired:
            return ()
        left: set[str] = set()
        good: dict[str, Installed] = {} if self.previous is None else {self.previous.digest: self.previous}
        for place in range(len(self.history) - 1, -1, -1):
            one = self.history[place]
            around = self.history[max(place - 1, 0) : place + 2]
            if 0 < place < len(self.history) - 1 and around[0] == around[2]:
                left.add(one.digest)
            good.setdefault(one.digest, one)
        active = self.active.digest if self.active else ""
        return tuple(
            one
            for one in good.values()
            if one.digest != active
            and self.quarantine_of(one.digest) is None
            and self.refusal_of(one.digest) is None
            and (one == self.previous or one.digest not in left)
        )

    def quarantine_of(self, digest: str) -> Verdict | None:
        return next((verdict for verdict in self.quarantined if verdict.digest == digest), None)

    def refusal_of(self, digest: str) -> Verdict | None:
        return next((verdict for verdict in self.refused if verdict.digest == digest), None)

    def activated(self, installed: Installed, *, trusted: bool = False) -> ModelRecord:
        """``installed`` answers from now on; verdicts on it are lifted."""
        if self.active == installed:
            return self
        return replace(
            self,
            active=installed,
            previous=None if self.previous == installed else self.active or self.previous,
            trusted=trusted,
            quarantined=_without(self.quarantined, installed.digest),
            refused=_without(self.refused, installed.digest),
            history=(*self.history, installed)[-MAX_HISTORY:],
        )

    def condemned(self, verdict: Verdict) -> ModelRecord:
        """The verdict stands from now on; what answers stays."""
        return replace(self, quarantined=(*_without(self.quarantined, verdict.digest), verdict)[-MAX_VERDICTS:])

    def succeeded(self, successor: Installed | None, at: int | None, *, trusted: bool) -> ModelRecord:
        """``successor`` answers in the active package's stead, or nothing, and then the previous one stays in reach.

        Args:
            at: when, where the device did it by itself, seconds of the wall clock; None where somebody asked.
        """
        switches = self.switches if at is None else (*self.switches, at)[-MAX_SWITCHES:]
        if successor is None:
            return replace(self, active=None, trusted=False, switches=switches)
        history = (*self.history, successor)[-MAX_HISTORY:]
        return replace(self, active=successor, previous=None, trusted=trusted, history=history, switches=switches)

    def with_refusal(self, verdict: Verdict) -> ModelRecord:
        return replace(self, refused=(*_without(self.refused, verdict.digest), verdict)[-MAX_VERDICTS:])

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "active": [self.active.to_json()] if self.active else [],
            "previous": [self.previous.to_json()] if self.previous else [],
            "wanted": [self.wanted.to_json()] if self.wanted else [],
            "trusted": self.trusted,
            "quarantined": [verdict.to_json() for verdict in self.quarantined],
            "refused": [verdict.to_json() for verdict in self.refused],
            "history": [installed.to_json() for installed in self.history],
            **({"switches": list(self.switches)} if self.switches else {}),
        }

    @classmethod
    def read(cls, reader: Reader) -> ModelRecord:
        return cls(
            model=reader.text("model", check=names.model_name),
            active=next(iter(reader.objects("active", Installed.read)), None),
            previous=next(iter(reader.objects("previous", Installed.read)), None),
            wanted=next(iter(reader.objects("wanted", Wanted.read)), None),
            trusted=reader.boolean("trusted"),
            quarantined=reader.objects("quarantined", Verdict.read),
            refused=reader.objects("refused", Verdict.read),
            history=reader.objects("history", Installed.read),
            switches=reader.integers("switches", ()),
        )


def _without(verdicts: tuple[Verdict, ...], digest: str) -> tuple[Verdict, ...]:
    return tuple(verdict for verdict in verdicts if verdict.digest != digest)


def to_bytes(records: dict[str, ModelRecord]) -> bytes:
    """The ledger's file content."""
    return canonical({"format": FORMAT, "models": [records[name].to_json() for name in sorted(records)]})


def from_bytes(data: bytes) -> dict[str, ModelRecord]:
    """Read the ledger, or raise InvalidDocument."""
    reader = parse(data, "store's ledger", MAX_LEDGER_BYTES)
    reader.format(FORMAT)
    records = reader.objects("models", ModelRecord.read)
    reader.close()
    return {record.model: record for record in records}
