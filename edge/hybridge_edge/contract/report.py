"""A device's report: what it runs, in its named shadow ``hybridge``. Format 1, scalars only, at most 3 KB.

AWS IoT limits a shadow's state document to 8 KB and its depth to 8; a report stays far below both.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.states import PackageState

FORMAT = 1
MAX_REPORT_BYTES = 3 * 1024
SLOWER = 1.5
"""How many times as long a paired run must take to count as slower."""


def _state(text: str) -> str:
    if text not in PackageState.__members__:
        raise InvalidDocument(f"{text[:40]!r} is not a package state")
    return text


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a device measured of the version it switched to, beside the one it switched from: counts that add up.

    Probes are the package's own recorded inputs, answered by both versions at activation, in turns. Live rows are a
    share of real requests that the version before answered too, beside the traffic, while it stayed resident.

    Attributes:
        against: digest of the version before, "" where there was none.
        requests, errors, guarded: since the switch: answered or failed; failed; answers that a guard objected to.
        probes, probes_disagreed, probes_slower: rows; rows on which the largest value of the confidence output stood
            elsewhere; paired runs in which this version took more than SLOWER times as long.
        probe_us, probe_us_before: the median of a probe's run, microseconds, of this version and of the one before.
        live, live_disagreed: as probes.
        p50_us, p99_us: of requests since the switch, features and model.
        live_timed, live_slower: paired runs on live inputs, and those in which this version took more than SLOWER times
            as long; live_us, live_us_before: the medians, as of a probe.
        score_shift: how far the scores of both versions over the live rows lie apart, in thousandths of
            `scores.ScoreSketch.apart`. It is no count, and does not add up.

    A shadow's evidence is of the inputs it answered beside the version ``against``, which it never replaced.
    """

    against: str = ""
    requests: int = 0
    errors: int = 0
    guarded: int = 0
    probes: int = 0
    probes_disagreed: int = 0
    probes_slower: int = 0
    probe_us: int = 0
    probe_us_before: int = 0
    live: int = 0
    live_disagreed: int = 0
    p50_us: int = 0
    p99_us: int = 0
    live_timed: int = 0
    live_slower: int = 0
    live_us: int = 0
    live_us_before: int = 0
    score_shift: int = 0

    def to_json(self) -> dict[str, object]:
        """Fields that are not zero."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name))}

    @classmethod
    def read(cls, reader: Reader) -> Evidence:
        against = reader.text("against", "")
        counts = {name: reader.integer(name, 0) for name in cls.__slots__ if name != "against"}
        return cls(against=names.digest(against) if against else "", **counts)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model on one device.

    Attributes:
        rollout, epoch: the last hand-over obeyed. state: of ``version``/``digest``, with ``reason`` where refused.
        requests, failures: since the server started. evidence: None where the version was not compared.
        degraded: why it does not run where this kind of device should run it; "" where it does. Not written then.
    """

    model: str
    version: str
    digest: str
    state: PackageState
    rollout: str
    epoch: int
    provider: str = ""
    reason: str = ""
    requests: int = 0
    failures: int = 0
    evidence: Evidence | None = None
    degraded: str = ""

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {} if self.evidence is None else {"evidence": self.evidence.to_json()}
        if self.degraded:
            fields["degraded"] = self.degraded[:200]
        return {
            **fields,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "state": self.state.value,
            "rollout": self.rollout,
            "epoch": self.epoch,
            "provider": self.provider,
            "reason": self.reason[:200],
            "requests": self.requests,
            "failures": self.failures,
        }

    @classmethod
    def read(cls, reader: Reader) -> ModelReport:
        return cls(
            model=reader.text("model", check=names.model_name),
            version=reader.text("version", check=names.version),
            digest=reader.text("digest", check=names.digest),
            state=PackageState(reader.text("state", check=_state)),
            rollout=reader.text("rollout"),
            epoch=reader.integer("epoch"),
            provider=reader.text("provider", ""),
            reason=reader.text("reason", ""),
            requests=reader.integer("requests", 0),
            failures=reader.integer("failures", 0),
            evidence=reader.object("evidence", Evidence.read) if "evidence" in reader.names() else None,
            degraded=reader.text("degraded", ""),
        )


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """Everything a device says of itself at once; ``sequence`` grows by one a report, over restarts too."""

    thing: str
    sequence: int
    runtime_version: str
    models: tuple[ModelReport, ...]
    captured: int = 0
    returned: int = 0
    spool_bytes: int = 0

    def to_bytes(self) -> bytes:
        """The report's own bytes. Raises InvalidDocument over 3 KB."""
        data = canonical(self._json())
        if len(data) > MAX_REPORT_BYTES:
            raise InvalidDocument(f"The report of {self.thing!r} is {len(data)} bytes; {MAX_REPORT_BYTES} are allowed.")
        return data

    def to_shadow_update(self) -> bytes:
        """The payload for the shadow's update topic (AWS IoT, Device Shadow REST and MQTT documents)."""
        self.to_bytes()
        return canonical({"state": {"reported": self._json()}})

    def _json(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "thing": self.thing,
            "sequence": self.sequence,
            "runtime_version": self.runtime_version,
            "models": [model.to_json() for model in self.models],
            "captured": self.captured,
            "returned": self.returned,
            "spool_bytes": self.spool_bytes,
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceReport:
        reader = parse(data, "device report", MAX_REPORT_BYTES)
        reader.format(FORMAT)
        report = cls(
            thing=reader.text("thing", check=names.thing_name),
            sequence=reader.integer("sequence"),
            runtime_version=reader.text("runtime_version"),
            models=reader.objects("models", ModelReport.read),
            captured=reader.integer("captured", 0),
            returned=reader.integer("returned", 0),
            spool_bytes=reader.integer("spool_bytes", 0),
        )
        reader.close()
        return report
