"""What somebody on the device says a sample is: a label that finds its sample later, by id.

On the device it is a record of the spool, beside the samples, and as safe as they are::

    b"HYF1"  magic
    body     canonical JSON, format 1

To the cloud it goes as a JSON line of an object below ``devices/THING/labels/MODEL/``, in the form that
``hybridge labels import`` reads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

FORMAT = 1
MAGIC = b"HYF1"
MAX_FEEDBACK_BYTES = 4 * 1024
MAX_WORDS = 128
"""Characters of a label and of a source."""
DEFAULT_SOURCE = "device"
_FORMULA = re.compile(r"[=@]|[+-](?=[^\d.])")
"""What a spreadsheet would run: labels go to annotators as CSV, and some were said on devices of somebody else."""


def words(what: str, text: str) -> str:
    """Return ``text`` if it may be a label or a source, else raise InvalidDocument; ``what`` names it there."""
    if not 1 <= len(text) <= MAX_WORDS or not text.isprintable() or text != text.strip():
        raise InvalidDocument(
            f"The {what} {text[:80]!r} is not 1 to {MAX_WORDS} printable characters.", "Write it shorter."
        )
    if _FORMULA.match(text):
        raise InvalidDocument(
            f"The {what} {text[:80]!r} begins as a spreadsheet's formula does.", "Write it as a word."
        )
    return text


@dataclass(frozen=True, slots=True)
class Feedback:
    """A label.

    Attributes:
        sample_id: of an answer; a row of several is ID/ROW. source: who says so. confidence: how sure, 0 to 1.
        at_ms: when it was said by the device's clock, milliseconds since 1970; the cloud does not believe a clock that
            was never set.
    """

    sample_id: str
    model: str
    label: str
    source: str
    confidence: float
    at_ms: int

    def __post_init__(self) -> None:
        words("label", self.label)
        words("source", self.source)
        if not 0.0 <= self.confidence <= 1.0:
            raise InvalidDocument(f"The confidence {self.confidence} is not between 0 and 1.", "Write 1 if it is sure.")

    def to_bytes(self) -> bytes:
        """The spool's record."""
        return MAGIC + canonical({"format": FORMAT, "model": self.model, **self._line()})

    def to_line(self) -> bytes:
        """The line that the cloud reads."""
        return canonical(self._line())

    def _line(self) -> dict[str, object]:
        return {
            "sample_id": self.sample_id,
            "label": self.label,
            "source": self.source,
            "confidence": self.confidence,
            "at_ms": self.at_ms,
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> Feedback:
        """Read a record. Raises InvalidDocument where it is not exactly one label of format 1."""
        if not data.startswith(MAGIC):
            raise InvalidDocument("The record is not a label of format 1.")
        reader = parse(data[len(MAGIC) :], "label", MAX_FEEDBACK_BYTES)
        reader.format(FORMAT)
        feedback = cls.read(reader, at_ms=0)
        reader.close()
        return feedback

    @classmethod
    def read(cls, reader: Reader, at_ms: int) -> Feedback:
        """The fields of a label; ``at_ms`` stands in where no time is given. The caller closes the reader."""
        return cls(
            sample_id=reader.text("sample_id", check=names.sample_id),
            model=reader.text("model", check=names.model_name),
            label=reader.text("label"),
            source=reader.text("source", DEFAULT_SOURCE),
            confidence=reader.number("confidence", 1.0),
            at_ms=reader.integer("at_ms", at_ms),
        )
