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


def _state(text: str) -> str:
    if text not in PackageState.__members__:
        raise InvalidDocument(f"{text[:40]!r} is not a package state")
    return text


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model on one device.

    Attributes:
        rollout, epoch: the last hand-over obeyed. state: of ``version``/``digest``, with ``reason`` where refused.
        requests, failures, guard_failures: since the server started.
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

    def to_json(self) -> dict[str, object]:
        return {
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
