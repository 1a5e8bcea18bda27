"""What a rule is, and what it finds."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.recipes.recipe import Recipe


class Nucleus(enum.StrEnum):
    """Which nucleus a breach hits."""

    LITE = "lite"
    CLASSIC = "classic"
    BOTH = "both"

    def hits(self, asked: Nucleus) -> bool:
        """Whether somebody who asked about ``asked`` wants to hear of it."""
        return Nucleus.BOTH in (self, asked) or self is asked


class Severity(enum.StrEnum):
    """An error fails or does something else than what is written; a warning is likely to, or only somewhere."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Hit:
    """One breach: the line, from 1, and what is wrong there, without a full stop."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of recipes.

    Attributes:
        name: stable, in kebab-case. why: what the nucleus does, a sentence. mend: what to write instead, a sentence.
        check: a pure function from a recipe to its breaches.
    """

    name: str
    nucleus: Nucleus
    severity: Severity
    why: str
    mend: str
    check: Callable[[Recipe], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A breach in a file."""

    file: Path
    line: int
    rule: str
    nucleus: Nucleus
    severity: Severity
    reason: str
    mend: str
