"""Which labels count: declared in ``[labels]`` of project.toml, pinned by every dataset. Format 1.

``hybridge retrain pipeline create`` writes the project's rule to ``labels/MODEL/rule.json``, where the gate and
``hybridge labels`` find it. A dataset keeps a copy, so what it trains on never depends on what is declared later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybridge_cloud.data.label import Label
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

FORMAT = 1
DEFAULT_WINDOW_DAYS = 30.0
MAX_WINDOW_DAYS = 3650.0
MAX_SOURCES = 64
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Which labels count, and which of several.

    Attributes:
        window_days: how far apart, in days, a sample's capture and its label may lie, whichever came first.
        source_priority: sources, the most trusted first; of equally sure labels its order decides. Sources it does not
            name come after those it names, and what was said on devices comes last.
        minimum_confidence: 0 to 1; less sure labels are not trained on.
    """

    window_days: float = DEFAULT_WINDOW_DAYS
    source_priority: tuple[str, ...] = ()
    minimum_confidence: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.window_days <= MAX_WINDOW_DAYS:
            raise InvalidDocument(
                f"The labels' window_days is {self.window_days}.", f"Write days, above 0 and up to {MAX_WINDOW_DAYS:g}."
            )
        if len(self.source_priority) > MAX_SOURCES or len(set(self.source_priority)) != len(self.source_priority):
            raise InvalidDocument(
                f"The labels' source_priority names a source twice, or more than {MAX_SOURCES}.", "Name each once."
            )
        if not 0.0 <= self.minimum_confidence <= 1.0:
            raise InvalidDocument(
                f"The labels' minimum_confidence is {self.minimum_confidence}.", "Write a number from 0 to 1."
            )

    @property
    def window_ms(self) -> int:
        return int(self.window_days * _DAY_MS)

    def rank(self, label: Label) -> int:
        """The place of a label's source: the lower, the more trusted."""
        for name in (label.shown_source, label.source):
            if name in self.source_priority:
                return self.source_priority.index(name)
        return len(self.source_priority) + (1 if label.thing else 0)

    def to_json(self) -> dict[str, object]:
        return {
            "window_days": self.window_days,
            "source_priority": list(self.source_priority),
            "minimum_confidence": self.minimum_confidence,
        }

    @classmethod
    def read(cls, reader: Reader) -> LabelRule:
        return cls(
            reader.number("window_days", DEFAULT_WINDOW_DAYS),
            reader.strings("source_priority", ()),
            reader.number("minimum_confidence", 0.0),
        )

    def sentence(self) -> str:
        """The rule in words."""
        trusted = ", then ".join(self.source_priority)
        return (
            f"A label counts within {self.window_days:g} days of its sample"
            + (f", from confidence {self.minimum_confidence:g} on" if self.minimum_confidence else "")
            + "; of several the surest"
            + (f", then by source ({trusted})" if trusted else "")
            + ", then the newest."
        )


def declare(bucket: Bucket, model: str, rule: LabelRule) -> None:
    """Write the rule of a model; the one before is replaced, datasets keep theirs."""
    bucket.put(names.label_rule_key(model), canonical({"format": FORMAT, **rule.to_json()}))


def declared(bucket: Bucket, model: str) -> LabelRule:
    """The rule of a model; the default where none was declared."""
    key = names.label_rule_key(model)
    if not bucket.exists(key):
        return LabelRule()
    reader = parse(bucket.get(key), "labels' rule")
    reader.format(FORMAT)
    rule = LabelRule.read(reader)
    reader.close()
    return rule
