"""A label: what somebody says a sample is, how sure they are, and when they said it. One JSON line of an object in S3.

{"at_ms":1790000000000,"confidence":1.0,"label":"...","sample_id":"...","source":"..."}
"""

from __future__ import annotations

from dataclasses import dataclass
from sys import intern

from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.feedback import MAX_WORDS, words

MAX_LINE_BYTES = 8 * 1024
_COLUMNS = ("sample_id", "label", "source", "confidence")


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody says a sample is.

    Attributes:
        source: who says so, such as "import" or "recordings". confidence: 0 to 1, how sure they are.
        at_ms: when they said it, milliseconds since 1970; 0 where nobody wrote it down.
        thing: the device it was said on, "" where it was said to the cloud. A device speaks of its own samples only.
        imported_at_ms: when it came into the account, by the importer's clock; 0 where that is not known.
    """

    sample_id: str
    label: str
    source: str
    confidence: float = 1.0
    at_ms: int = 0
    thing: str = ""
    imported_at_ms: int = 0

    def __post_init__(self) -> None:
        names.sample_id(self.sample_id)
        words("label", self.label)
        words("source", self.source)
        if not 0.0 <= self.confidence <= 1.0:
            raise Refused(f"The confidence {self.confidence} is not between 0 and 1.")

    @property
    def said_at_ms(self) -> int:
        """When it was said, or else when it came; 0 where neither is known."""
        return self.at_ms or self.imported_at_ms

    @property
    def shown_source(self) -> str:
        """Who says so, with the device it was said on: ``THING/SOURCE``, cut to what a source may have."""
        return f"{self.thing}/{self.source}"[:MAX_WORDS].strip() if self.thing else self.source

    def to_line(self) -> bytes:
        fields: dict[str, object] = {name: getattr(self, name) for name in _COLUMNS}
        return canonical({**fields, "at_ms": self.at_ms} if self.at_ms else fields)

    @classmethod
    def from_line(cls, line: str | bytes, thing: str = "", imported_at_ms: int = 0) -> Label:
        """Read a line of an object in S3; what the object says of all its lines is given."""
        reader = parse(line, "label", MAX_LINE_BYTES)
        label = cls(
            reader.text("sample_id"),
            intern(reader.text("label")),  # few texts, many labels: each is kept once
            intern(reader.text("source")),
            reader.number("confidence", 1.0),
            reader.integer("at_ms", 0),
            thing,
            imported_at_ms,
        )
        reader.close()
        return label
