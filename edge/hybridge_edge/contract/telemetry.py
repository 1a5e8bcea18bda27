"""How long a model takes on a device and how sure it is: a message a model on ``hybridge/THING/telemetry``.

Format 1, at most 5 KB. Telemetry is for people and graphs; what a rollout is judged by stands in the report.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument
from hybridge_edge.contract.scores import ScoreSketch
from hybridge_edge.contract.sketch import Sketch

FORMAT = 1
MAX_TELEMETRY_BYTES = 5 * 1024


@dataclass(frozen=True, slots=True)
class Beside:
    """What a shadow's answers are compared with: those of the version ``against`` (a digest) to the same inputs.

    Attributes:
        rows, disagreed: compared, and those on which the largest value of the confidence output stood elsewhere.
        scores: of the version that answered, over these rows; the message's own are the shadow's. None where the model
            has none, or where they did not fit.
    """

    against: str
    rows: int
    disagreed: int
    scores: ScoreSketch | None = None

    def to_json(self) -> dict[str, object]:
        scores: dict[str, object] = {} if self.scores is None else {"scores": self.scores.to_json()}
        return {"against": self.against, "rows": self.rows, "disagreed": self.disagreed, **scores}

    @classmethod
    def read(cls, reader: Reader) -> Beside:
        return cls(
            against=reader.text("against", check=names.digest),
            rows=reader.integer("rows"),
            disagreed=reader.integer("disagreed"),
            scores=reader.object("scores", ScoreSketch.read) if "scores" in reader.names() else None,
        )


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One model's durations and scores since it answers here, or since the server started.

    Attributes:
        sequence: of the report it was sent with. rollout, epoch: the last hand-over obeyed.
        seconds: how long it has answered. latency: features and model of each answer, microseconds.
        scores: the confidence of each row; None where the model has none. Not written then.
        beside: of a shadow, which answers nobody; None of a version that answers. Not written then.
    """

    thing: str
    sequence: int
    model: str
    version: str
    digest: str
    rollout: str
    epoch: int
    seconds: int
    latency: Sketch
    scores: ScoreSketch | None = None
    beside: Beside | None = None

    def to_bytes(self) -> bytes:
        """The message. Raises InvalidDocument over 5 KB."""
        scores: dict[str, object] = {} if self.scores is None else {"scores": self.scores.to_json()}
        beside: dict[str, object] = {} if self.beside is None else {"shadow": self.beside.to_json()}
        data = canonical(
            {
                **scores,
                **beside,
                "format": FORMAT,
                "thing": self.thing,
                "sequence": self.sequence,
                "model": self.model,
                "version": self.version,
                "digest": self.digest,
                "rollout": self.rollout,
                "epoch": self.epoch,
                "seconds": self.seconds,
                "latency_us": self.latency.to_json(),
            }
        )
        if len(data) > MAX_TELEMETRY_BYTES:
            raise InvalidDocument(
                f"Telemetry of {self.model!r} is {len(data)} bytes; {MAX_TELEMETRY_BYTES} are allowed."
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Telemetry:
        reader = parse(data, "telemetry", MAX_TELEMETRY_BYTES)
        reader.format(FORMAT)
        telemetry = cls(
            thing=reader.text("thing", check=names.thing_name),
            sequence=reader.integer("sequence"),
            model=reader.text("model", check=names.model_name),
            version=reader.text("version", check=names.version),
            digest=reader.text("digest", check=names.digest),
            rollout=reader.text("rollout"),
            epoch=reader.integer("epoch"),
            seconds=reader.integer("seconds"),
            latency=reader.object("latency_us", Sketch.read),
            scores=reader.object("scores", ScoreSketch.read) if "scores" in reader.names() else None,
            beside=reader.object("shadow", Beside.read) if "shadow" in reader.names() else None,
        )
        reader.close()
        return telemetry
