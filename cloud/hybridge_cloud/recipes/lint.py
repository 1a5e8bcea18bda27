"""Find recipes below files and folders, read them, and hold every rule against them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hybridge_cloud.recipes import document
from hybridge_cloud.recipes.document import Table
from hybridge_cloud.recipes.recipe import Recipe
from hybridge_cloud.recipes.rule import Finding, Nucleus, Rule, Severity
from hybridge_cloud.recipes.table import READING, RULES
from hybridge_edge.contract.errors import Refused, UsageError

MAX_FILE_BYTES = 64 * 1024
"""Four times what the cloud takes; a longer file is no recipe."""
MAX_FILES = 10_000
MAX_HITS = 20
"""Findings of one rule in one file; the rest are counted."""
SUFFIXES = (".yaml", ".yml", ".json")
_MARKS = ((b"recipeformatversion",), (b"componentname", b"manifests"))
"""Words of which one group makes a file in a folder a recipe: one may have forgotten the first."""


@dataclass(frozen=True, slots=True)
class Report:
    """How many recipes were checked, and what was found."""

    files: int
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        return sum(finding.severity is severity for finding in self.findings)


def lint(paths: Iterable[Path], nucleus: Nucleus = Nucleus.BOTH) -> Report:
    """Check every recipe among files and below folders.

    Args:
        nucleus: whose devices the recipes are for.

    Raises:
        UsageError: a path does not exist. Refused: there is no recipe, or more than MAX_FILES.
    """
    files = tuple(recipes(paths))
    return Report(len(files), tuple(finding for file in files for finding in check_file(file, nucleus)))


def recipes(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and of the folders named every YAML and JSON file that calls itself a recipe."""
    asked = tuple(paths)
    seen: set[Path] = set()
    for path in asked:
        if not path.exists():
            raise UsageError(f"There is no {str(path)!r}.", "Name recipes, or folders that hold some.")
        for file in _below(path) if path.is_dir() else (path,):
            if file not in seen:
                seen.add(file)
                yield file
    if not seen:
        raise Refused(
            f"There is no recipe in {', '.join(map(str, asked))[:200]}.",
            "A recipe is a .yaml, .yml or .json file with RecipeFormatVersion, or ComponentName and Manifests.",
        )


def _below(folder: Path) -> Iterator[Path]:
    looked_at = 0
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(base) / name
            if file.suffix.lower() in SUFFIXES and file.is_file():
                looked_at += 1
                if looked_at > MAX_FILES:
                    raise Refused(
                        f"{folder} holds more than {MAX_FILES} YAML and JSON files.", "Name a folder below it."
                    )
                text = _start(file).lower()
                if any(all(word in text for word in group) for group in _MARKS):
                    yield file


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as source:
            return source.read(MAX_FILE_BYTES)
    except OSError:
        return b""  # named by itself it would be a finding; in a folder it is somebody else's


def check_file(file: Path, nucleus: Nucleus = Nucleus.BOTH) -> tuple[Finding, ...]:
    """What is wrong with one file; whatever is in it, nothing is raised."""
    if not file.is_file():
        return (_unreadable(file, 1, "it is no plain file"),)
    try:
        with file.open("rb") as source:
            data = source.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return (_unreadable(file, 1, f"it cannot be opened ({error.strerror})"),)
    return check(data, file, nucleus)


def check(data: bytes, file: Path, nucleus: Nucleus = Nucleus.BOTH) -> tuple[Finding, ...]:
    """What is wrong with the recipe in ``data``, in the order of its lines; ``file`` is only named."""
    if len(data) > MAX_FILE_BYTES:
        return (_unreadable(file, 1, f"it is over {MAX_FILE_BYTES} bytes, and the cloud takes 16,000"),)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return (_unreadable(file, line, f"byte {error.start} is no UTF-8"),)
    try:
        read = document.read(text)
    except document.Unreadable as error:
        return (_unreadable(file, error.line, error.reason),)
    if not isinstance(read.root, Table):
        return (_unreadable(file, read.root.line, "it holds no mapping"),)
    recipe = Recipe(read.root, read, len(data))
    found = [item for rule in RULES if rule.nucleus.hits(nucleus) for item in _findings(rule, recipe, file)]
    return tuple(sorted(found, key=lambda finding: finding.line))


def _findings(rule: Rule, recipe: Recipe, file: Path) -> Iterator[Finding]:
    hits = sorted(set(rule.check(recipe)), key=lambda hit: hit.line)
    for index, hit in enumerate(hits[:MAX_HITS]):
        more = f" (and {len(hits) - MAX_HITS} more like it)" if index == MAX_HITS - 1 and len(hits) > MAX_HITS else ""
        reason = f"{_sentence(hit.reason)}{more}. {rule.why}"
        yield Finding(file, hit.line, rule.name, rule.nucleus, rule.severity, reason, rule.mend)


def _unreadable(file: Path, line: int, reason: str) -> Finding:
    said = f"{_sentence(reason)}. {READING.why}"
    return Finding(file, line, READING.name, READING.nucleus, READING.severity, said, READING.mend)


def _sentence(text: str) -> str:
    """The text with a capital, and without what a terminal would take for a command."""
    return text[:1].upper() + "".join(letter if letter.isprintable() else "?" for letter in text[1:])
