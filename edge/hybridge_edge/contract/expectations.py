"""What a package says about its own answers, for a device to hold it to: guards, and the version it was compared with.

Both are part of the signed manifest, so that whoever hands the package over cannot loosen them.
"""

from __future__ import annotations

from dataclasses import dataclass

from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument

ACTIONS = ("pass", "flag", "refuse")
"""What a server does with an answer a guard objects to: count only; count and say so in the answer; answer an error."""
MAX_PROBES = 4_096
MAX_CONSTANT_AFTER = 1_000_000


@dataclass(frozen=True, slots=True)
class Guard:
    """Bounds of one output, element by element. NaN and infinities always break it.

    Attributes:
        minimum, maximum: inclusive. action: one of ACTIONS.
        constant_after: this many answers in a row, to inputs that differ, with the very same values break it too; 0
            never.
    """

    output: str
    minimum: float
    maximum: float
    action: str = "flag"
    constant_after: int = 0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS or self.minimum > self.maximum:
            raise InvalidDocument(
                f"The guard of output {self.output!r} is not one.", f"Give minimum <= maximum and one of {ACTIONS}."
            )

    @classmethod
    def read(cls, reader: Reader) -> Guard:
        return cls(
            reader.text("output"),
            reader.number("minimum"),
            reader.number("maximum"),
            reader.text("action", "flag"),
            reader.integer("constant_after", 0, maximum=MAX_CONSTANT_AFTER),
        )

    def to_json(self) -> dict[str, object]:
        fields: dict[str, object] = {"constant_after": self.constant_after} if self.constant_after else {}
        bounds = {"minimum": self.minimum, "maximum": self.maximum}
        return {**fields, **bounds, "output": self.output, "action": self.action}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How this package's answers differ from those of the one it is to replace, measured where it was evaluated.

    A better model must disagree with the old one; a device that sees more disagreement than was measured has another
    model than the one that was evaluated.

    Attributes:
        against: digest of the package compared with. rows: labelled or not, how many inputs both answered.
        disagreed: on how many of them the largest value of the confidence output stood elsewhere.
    """

    against: str
    rows: int
    disagreed: int

    def __post_init__(self) -> None:
        if not 0 <= self.disagreed <= self.rows or not self.rows:
            raise InvalidDocument(f"The comparison counts {self.disagreed} of {self.rows} rows.")

    @property
    def rate(self) -> float:
        return self.disagreed / self.rows

    @classmethod
    def read(cls, reader: Reader) -> Comparison:
        return cls(
            reader.text("against", check=names.digest),
            reader.integer("rows", minimum=1),
            reader.integer("disagreed"),
        )

    def to_json(self) -> dict[str, object]:
        return {"against": self.against, "rows": self.rows, "disagreed": self.disagreed}
