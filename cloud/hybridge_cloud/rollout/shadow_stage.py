"""The stage before a ring's activation in which the new version only answers beside the old one: `shadow` in the YAML.

Devices keep the version as a shadow: it is run on a share of the same requests and answers nobody. Where enough of them
were compared the stage is judged by these; where not within `wait_seconds`, by the package's probe set, which every
device answered with both versions when the shadow came. The verdict says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

MAX_SECONDS = 90 * 24 * 3600
MAX_COUNT = 10**9


@dataclass(frozen=True, slots=True)
class ShadowStage:
    """What an operator may set below `shadow`; each name is a key there.

    Attributes:
        rings: that have the stage; () for every ring.
        minimum_requests: live rows that both versions answered, of a wave's devices together, to be judged by them.
        share: of the devices that keep the shadow, those that must have compared at least one of these rows.
        wait_seconds: so long after the wave was written the probe set stands in for live rows that are missing.
        score_shift: the most that the scores of the two versions over the same live rows may lie apart on a device, as
            `hybridge_edge.contract.scores.ScoreSketch.apart` says it; 1 asks for nothing.
    """

    rings: tuple[int, ...] = ()
    minimum_requests: int = 200
    share: float = 0.5
    wait_seconds: int = 1800
    score_shift: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 <= ring < names.RINGS for ring in self.rings) or len(set(self.rings)) != len(self.rings):
            _refuse("rings", f"must list rings from 0 to {names.RINGS - 1}, each once")
        if self.minimum_requests < 1:
            _refuse("minimum_requests", "must be at least 1: silence never passes")
        for name in ("share", "score_shift"):
            if not 0 < getattr(self, name) <= 1:
                _refuse(name, "must be more than 0 and at most 1")

    def to_json(self) -> dict[str, object]:
        return {
            "rings": list(self.rings),
            "minimum_requests": self.minimum_requests,
            "share": self.share,
            "wait_seconds": self.wait_seconds,
            "score_shift": self.score_shift,
        }

    @classmethod
    def read(cls, reader: Reader) -> ShadowStage:
        """Read what is there; what is not has its default. Raises InvalidDocument with the field's name."""
        standard = cls()
        return cls(
            rings=reader.integers("rings", ()),
            minimum_requests=reader.integer("minimum_requests", standard.minimum_requests, maximum=MAX_COUNT),
            share=reader.number("share", standard.share),
            wait_seconds=reader.integer("wait_seconds", standard.wait_seconds, maximum=MAX_SECONDS),
            score_shift=reader.number("score_shift", standard.score_shift),
        )


def _refuse(name: str, reason: str) -> None:
    raise InvalidDocument(f"The limit 'shadow.{name}' of a rollout {reason}.", "Change it in the rollout's YAML file.")
