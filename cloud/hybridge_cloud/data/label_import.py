"""Take labels in, from a file or from devices: all of it or nothing, and the same thing twice changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hybridge_cloud import registry
from hybridge_cloud.data import labels
from hybridge_cloud.data.join import LabelSet
from hybridge_cloud.data.label import Label
from hybridge_cloud.data.label_file import Given, Line, read_lines
from hybridge_cloud.data.label_rule import LabelRule
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

DEVICES_PREFIX = "devices/"
MAX_NAMED = 20
"""Refused lines or objects that an answer names; the rest is counted."""
MAX_MODELS = 64
MAX_VERSIONS = 32
"""Published versions whose classes are looked up, the newest first."""
MAX_OBJECT_BYTES = 8 * 1024**2
MAX_ORIGINS = 8192
"""Objects of devices that one import takes in; the rest is for the next."""
PROGRESS_LINES = 50_000


@dataclass(slots=True)
class Report:
    """What an import did.

    Attributes:
        lines: read. unfilled: without a label yet. known: there already. taken: new labels by model.
        bad: refused lines, the first of which are named. unknown: classes that the model does not have, by count.
        sources: who said the new ones. samples: the new labels' sample ids by model.
    """

    lines: int = 0
    unfilled: int = 0
    known: int = 0
    bad: int = 0
    named: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    sources: set[str] = field(default_factory=set)
    samples: dict[str, set[str]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    def refuse(self, where: str, reason: str) -> None:
        self.bad += 1
        if len(self.named) < MAX_NAMED:
            self.named.append(f"{where}: {reason.rstrip('.')}.")

    def refused(self) -> str:
        """The refused lines, in words."""
        more = f" and {self.bad - len(self.named)} more" if self.bad > len(self.named) else ""
        return " ".join(self.named) + more


class Importer:
    """Imports files. ``tell`` gets a few words, now and then, of a long one."""

    def __init__(self, bucket: Bucket, given: Given, tell: Callable[[str], None]) -> None:
        self._bucket = bucket
        self._given = given
        self._tell = tell
        self._known: dict[str, LabelSet] = {}
        self._classes: dict[str, frozenset[str]] = {}

    def take(self, path: Path, *, skip_bad: bool = False, new_classes: bool = False) -> Report:
        """Import a file: read it once to judge it, and once more to store it.

        Args:
            skip_bad: keep the good lines of a file that has bad ones. new_classes: a label that no published version
                of the model has is no mistake.

        Raises:
            Refused: lines that are no labels, each named by its number; nothing of the file was taken then.
        """
        report = Report()
        before = path.stat() if path.is_file() else None
        for line in read_lines(path, self._given):
            self._judge(line, report, new_classes)
        if report.bad and not skip_bad:
            counts = ", ".join(f"{label!r} {count} times" for label, count in report.unknown.most_common(MAX_NAMED))
            raise Refused(
                f"{path} was not imported: {report.refused()}"
                + (f" Classes the model does not have: {counts}." if counts else ""),
                "Correct them, or keep the other lines with --skip-bad"
                + (", or take new classes with --new-classes" if counts else "")
                + "; nothing was taken.",
            )
        if not (report.taken or report.known or report.unfilled):
            raise Refused(f"{path} holds no labels.", report.refused())
        for model, count in report.taken.items():
            labels.check_room(model, self._known[model].size + count)
        parts: dict[str, list[labels.Part]] = {}
        stored = 0
        for model, found in self._chunks(path, new_classes):
            parts.setdefault(model, []).append(labels.put_part(self._bucket, model, found))
            stored += len(found)
            if len(found) == labels.PART_LABELS:
                self._tell(f"{stored} labels stored")
        after = path.stat()
        if before is None or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise Refused(f"{path} changed while it was read.", "Import it again; nothing was taken.")
        for model, listed in sorted(parts.items()):
            entry, _ = labels.commit(self._bucket, model, listed, self._given.now_ms)
            report.keys.append(entry.key)
        return report

    def _judge(self, line: Line, report: Report, new_classes: bool) -> None:
        report.lines += 1
        if report.lines % PROGRESS_LINES == 0:
            self._tell(f"{report.lines} lines read")
        label = line.label
        if line.problem:
            report.refuse(f"line {line.number}", line.problem)
        elif label is None:
            report.unfilled += 1
        elif not new_classes and self._unknown(line.model, label.label):
            report.unknown[label.label] += 1
            report.refuse(f"line {line.number}", f"{line.model} has no label {label.label!r}")
        elif self._is_known(line.model, label):
            report.known += 1
        else:
            report.taken[line.model] += 1
            report.sources.add(label.source)
            report.samples.setdefault(line.model, set()).add(label.sample_id)

    def _chunks(self, path: Path, new_classes: bool) -> Iterator[tuple[str, list[Label]]]:
        """The new labels in the order of the file, a part's worth at a time."""
        waiting: dict[str, list[Label]] = {}
        for line in read_lines(path, self._given):
            label = line.label
            if label is None or self._is_known(line.model, label):
                continue
            if not new_classes and self._unknown(line.model, label.label):
                continue
            held = waiting.setdefault(line.model, [])
            held.append(label)
            if len(held) == labels.PART_LABELS:
                yield line.model, waiting.pop(line.model)
        yield from sorted(waiting.items())

    def _is_known(self, model: str, label: Label) -> bool:
        """Whether somebody said the same, with the same confidence and, where the line says when, at the same time."""
        if model not in self._known:
            if len(self._known) >= MAX_MODELS:
                raise Refused(f"The file names more than {MAX_MODELS} models.", "Split it.")
            self._known[model] = labels.LabelShelf(self._bucket, model).refresh(LabelRule())
        return any(
            (other.label, other.shown_source, other.confidence) == (label.label, label.source, label.confidence)
            and label.at_ms in (0, other.said_at_ms)
            for other in self._known[model].of(label.sample_id)
        )

    def _unknown(self, model: str, label: str) -> bool:
        if model not in self._classes:
            self._classes[model] = classes(self._bucket, model)
        return bool(self._classes[model]) and label not in self._classes[model]


def classes(bucket: Bucket, model: str) -> frozenset[str]:
    """The labels that published versions of a model know; none where it has none, or no version is published."""
    found: set[str] = set()
    for version in registry.versions(bucket, model)[-MAX_VERSIONS:]:
        key = names.package_key(model, version, MANIFEST_FILE)
        if bucket.exists(key):
            found |= set(Manifest.from_bytes(bucket.get(key)).labels)
    return frozenset(found)


def take_returned(bucket: Bucket, model: str, now_ms: int) -> Report:
    """Take in what was said on devices and their uplinks have brought: each object whole or not at all.

    An object that holds anything else is named in the report, and holds up nobody else's.
    """
    report = Report()
    shelf = labels.LabelShelf(bucket, model)
    size = shelf.refresh(LabelRule()).size
    origins = shelf.origins
    by_thing: dict[str, list[Label]] = {}
    taken: dict[str, list[str]] = {}
    for key, size, _ in bucket.list(DEVICES_PREFIX):
        named = names.parse_returned_labels_key(key)
        if named is None or named[1] != model:
            continue
        if key in origins:
            report.known += 1
            continue
        if sum(map(len, taken.values())) >= MAX_ORIGINS:
            break
        try:
            found = _said(bucket, key, size)
        except HybridgeError as error:
            report.refuse(key, error.message)
            continue
        report.lines += len(found)
        by_thing.setdefault(named[0], []).extend(found)
        taken.setdefault(named[0], []).append(key)
        report.sources |= {f"{named[0]}/{label.source}" for label in found}
        report.samples.setdefault(model, set()).update(label.sample_id for label in found)
        report.taken[model] += len(found)
        labels.check_room(model, size + report.lines)
    if taken:
        entry, _ = labels.commit(bucket, model, list(_parts(bucket, model, by_thing, taken)), now_ms)
        report.keys.append(entry.key)
    return report


def _parts(
    bucket: Bucket, model: str, by_thing: Mapping[str, list[Label]], taken: Mapping[str, list[str]]
) -> Iterator[labels.Part]:
    for thing in sorted(by_thing):
        found = by_thing[thing]
        for start in range(0, len(found), labels.PART_LABELS):
            chunk = found[start : start + labels.PART_LABELS]
            # With the last part, so that an object counts as taken in only once all its lines are.
            origins = tuple(sorted(taken[thing])) if start + labels.PART_LABELS >= len(found) else ()
            yield labels.put_part(bucket, model, chunk, thing, origins)


def _said(bucket: Bucket, key: str, size: int) -> list[Label]:
    if size > MAX_OBJECT_BYTES:
        raise Refused(f"It has {size} bytes; {MAX_OBJECT_BYTES} are allowed.")
    found: list[Label] = []
    for number, line in enumerate(bucket.get(key).splitlines(), 1):
        try:
            found.append(Label.from_line(line))
        except HybridgeError as error:
            raise Refused(f"line {number} is no label: {error.message}") from None
    if not found:
        raise Refused("It holds no label.")
    return found
