"""Labels that came later, joined to samples by id: JSONL objects below ``labels/MODEL/``, named by their content.

One line is ``{"confidence":1.0,"label":"...","sample_id":"...","source":"..."}``. An object is never changed: importing
the same lines again writes the same object, and a dataset that names its label objects names its labels for good.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse, sha256
from hybridge_edge.contract.errors import Conflict, HybridgeError, Refused, UsageError
from hybridge_edge.contract.feedback import MAX_WORDS

if TYPE_CHECKING:
    from hybridge_cloud.aws.s3 import Bucket

DEVICES_PREFIX = "devices/"
MAX_FILE_BYTES = 256 * 1024**2
MAX_LABELS = 1_000_000
"""Labels in one file."""
MAX_NAMED_LINES = 20
"""Refused lines that an error names; the rest is counted."""
_MAX_LINE_BYTES = 8 * 1024
_COLUMNS = ("sample_id", "label", "source", "confidence")


@dataclass(frozen=True, slots=True)
class Label:
    """What somebody says a sample is.

    Attributes:
        source: who says so, such as "import" or "recordings". confidence: 0 to 1, how sure they are.
    """

    sample_id: str
    label: str
    source: str
    confidence: float = 1.0

    def __post_init__(self) -> None:
        names.sample_id(self.sample_id)
        for what, text in (("label", self.label), ("source", self.source)):
            if not 1 <= len(text) <= MAX_WORDS or not text.isprintable() or text != text.strip():
                raise Refused(f"The {what} {text[:80]!r} is not 1 to {MAX_WORDS} printable characters.")
        if not 0.0 <= self.confidence <= 1.0:
            raise Refused(f"The confidence {self.confidence} is not between 0 and 1.")

    def to_line(self) -> bytes:
        return canonical({name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def from_line(cls, line: str | bytes, source: str = "") -> Label:
        """Read one JSON line; ``source`` stands in where the line names none."""
        reader = parse(line, "label", _MAX_LINE_BYTES)
        label = cls(
            reader.text("sample_id"),
            reader.text("label"),
            reader.text("source", source) if source else reader.text("source"),
            reader.number("confidence", 1.0),
        )
        reader.ignore("at_ms")  # a device says when; which label counts is decided by confidence alone
        reader.close()
        return label


@dataclass(frozen=True, slots=True)
class Joined:
    """One label per sample id.

    Attributes:
        labels: sample id -> label. conflicts: ids for which equally sure sources disagree; they count as unlabelled.
    """

    labels: Mapping[str, str]
    conflicts: tuple[str, ...]


def join(labels: Iterable[Label]) -> Joined:
    """The surest label of each sample id; where the surest disagree, none, and the id is listed as a conflict."""
    surest: dict[str, tuple[float, set[str]]] = {}
    for label in labels:
        confidence, values = surest.get(label.sample_id, (-1.0, set()))
        if label.confidence > confidence:
            surest[label.sample_id] = (label.confidence, {label.label})
        elif label.confidence == confidence:
            values.add(label.label)
    conflicts = sorted(sample for sample, (_, values) in surest.items() if len(values) > 1)
    return Joined(
        {sample: next(iter(values)) for sample, (_, values) in surest.items() if len(values) == 1}, tuple(conflicts)
    )


def read_file(path: Path, source: str) -> tuple[Label, ...]:
    """Read labels from a ``.csv`` with a header line or a ``.jsonl``.

    Raises:
        UsageError: no such file, or of another kind. Refused: lines that are not labels, each named by its number;
        nothing of the file is taken then.
    """
    if path.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{path} is neither .csv nor .jsonl.", "Name the file by what it holds.")
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{path} is larger than {MAX_FILE_BYTES} bytes.", "Split it.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Name a file of labels.") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path} is not UTF-8 text (byte {error.start}).", "Write it again as UTF-8.") from None
    found: list[Label] = []
    refused: list[str] = []
    for number, line in _lines(path, text):
        try:
            found.append(Label.from_line(line, source))
        except HybridgeError as error:
            refused.append(f"line {number}: {error.message}")
        if len(found) + len(refused) > MAX_LABELS:
            raise Refused(f"{path} holds more than {MAX_LABELS} labels.", "Split it.")
    if refused:
        more = f" and {len(refused) - MAX_NAMED_LINES} more" if len(refused) > MAX_NAMED_LINES else ""
        raise Refused(
            f"{path} was not imported: {' '.join(refused[:MAX_NAMED_LINES])}{more}",
            "Correct them; nothing was taken.",
        )
    if not found:
        raise Refused(f"{path} holds no labels.")
    return tuple(found)


def _lines(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """(line number, JSON text) of every line that is not empty."""
    if path.suffix == ".jsonl":
        yield from ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        return
    rows = csv.DictReader(io.StringIO(text, newline=""), restkey="extra")
    if not {"sample_id", "label"} <= set(rows.fieldnames or ()):
        raise Refused(f"{path} lacks the columns sample_id and label.", "Write them in the first line.")
    for row in _rows(path, rows):
        fields: dict[str, object] = {name: value for name, value in row.items() if value not in (None, "")}
        try:
            if "confidence" in fields:
                fields["confidence"] = float(str(fields["confidence"]))
        except ValueError:
            pass  # stays text, which the reader of labels refuses with its name
        yield rows.line_num, json.dumps(fields)


def _rows(path: Path, rows: csv.DictReader[str]) -> Iterator[dict[str | Any, str | Any]]:
    try:
        yield from rows
    except csv.Error as error:
        raise Refused(f"{path} is not CSV after line {rows.line_num}: {error}.", "Correct it.") from None


def returned(bucket: Bucket, model: str) -> tuple[Label, ...]:
    """The labels of a model that devices have said and their uplinks have brought; the source names the device.

    Raises:
        Refused: an object that holds anything else, with its key; nothing is taken then.
    """
    found: list[Label] = []
    for key, _, _ in bucket.list(DEVICES_PREFIX):
        named = names.parse_returned_labels_key(key)
        if named is None or named[1] != model:
            continue
        for number, line in enumerate(bucket.get(key).splitlines(), 1):
            try:
                label = Label.from_line(line)
            except HybridgeError as error:
                raise Refused(f"Line {number} of {key} is no label: {error.message}", "Remove the object.") from None
            found.append(replace(label, source=f"{named[0]}/{label.source}"[:MAX_WORDS].strip()))
            if len(found) > MAX_LABELS:
                raise Refused(f"Devices have said more than {MAX_LABELS} labels.", "Remove those imported already.")
    return tuple(found)


def store(bucket: Bucket, model: str, labels: Iterable[Label]) -> tuple[str, bool]:
    """Write labels as one object, and return its key and whether it is new."""
    data = b"".join(sorted({label.to_line() for label in labels}))
    key = names.labels_prefix(model) + sha256(data).removeprefix("sha256:") + ".jsonl"
    try:
        bucket.put(key, data, only_if_absent=True)
    except Conflict:
        return key, False
    return key, True


def keys(bucket: Bucket, model: str) -> tuple[str, ...]:
    """The keys of a model's label objects."""
    return tuple(key for key, _, _ in bucket.list(names.labels_prefix(model)) if key.endswith(".jsonl"))


def load(bucket: Bucket, object_keys: Iterable[str]) -> Iterator[Label]:
    """The labels of these objects; each object must still be what its name says."""
    for key in object_keys:
        data = bucket.get(key)
        if sha256(data).removeprefix("sha256:") != Path(key).stem:
            raise Refused(f"The labels {key} were altered after they were imported.", "Remove them and import again.")
        for line in data.splitlines():
            yield Label.from_line(line)
