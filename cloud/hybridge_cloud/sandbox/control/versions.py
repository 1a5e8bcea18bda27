"""Component versions and the ranges that recipes ask for (semver.org; npm's range syntax, as Greengrass uses it)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_COMPARATOR = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*v?(\d+|[xX*])(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?(-[0-9A-Za-z.-]+)?")

Key = tuple[int, int, int, int, tuple[tuple[int, int, str], ...]]


def key(text: str) -> Key:
    """The order of versions; a pre-release stands before its release.

    Raises:
        ValueError: ``text`` is not a semantic version.
    """
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a semantic version")
    major, minor, patch, pre = match.groups()
    parts = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in (pre or "").split(".") if part)
    return int(major), int(minor), int(patch), 0 if pre else 1, parts


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range: ``at_least`` or below/at most a key."""

    operator: str
    key: Key

    def holds(self, version: Key) -> bool:
        if self.operator == ">=":
            return version >= self.key
        if self.operator == ">":
            return version > self.key
        if self.operator == "<=":
            return version <= self.key
        return version < self.key


def satisfies(version: str, requirement: str) -> bool:
    """Whether a version lies in a range such as ``>=1.0.0 <2.0.0``, ``^1.2``, ``~1.2.3``, ``1.x`` or ``a || b``.

    Raises:
        ValueError: the range cannot be read.
    """
    number = key(version)
    return any(all(bound.holds(number) for bound in _bounds(part)) for part in requirement.split("||"))


def _bounds(part: str) -> list[Bound]:
    text = part.strip()
    bounds: list[Bound] = []
    position = 0
    while position < len(text):
        match = _COMPARATOR.match(text, position)
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a version range")
        bounds += _expanded(*match.groups())
        position = match.end()
        while position < len(text) and text[position] in " ,":
            position += 1
    return bounds


def _expanded(operator: str | None, major: str, minor: str | None, patch: str | None, pre: str | None) -> list[Bound]:
    def number(part: str | None) -> int | None:
        return None if part is None or part in "xX*" else int(part)

    first, second, third = number(major), number(minor), number(patch)
    low = key(f"{first or 0}.{second or 0}.{third or 0}{pre or ''}")

    def below(*parts: int) -> Bound:
        return Bound("<", (parts[0], parts[1], parts[2], 0, ()))

    if first is None:
        return []
    if second is None:
        span = below(first + 1, 0, 0)
    elif third is None:
        span = below(first, second + 1, 0)
    else:
        span = Bound("<=", low)
    if operator in (None, "="):
        return [Bound(">=", low), span]
    if operator == "~":
        return [Bound(">=", low), below(first + 1, 0, 0) if second is None else below(first, second + 1, 0)]
    if operator == "^":
        if first or second is None:
            return [Bound(">=", low), below(first + 1, 0, 0)]
        return [Bound(">=", low), below(0, second + 1, 0) if second or third is None else below(0, 0, third + 1)]
    if operator in (">", "<="):  # of a partial version: beyond, or within, all that it spans
        if span.operator == "<":
            return [Bound(">=", span.key)] if operator == ">" else [span]
        return [Bound(operator, low)]
    return [Bound(operator, low)]
