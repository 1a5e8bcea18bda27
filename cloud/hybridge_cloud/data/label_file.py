"""Read a file of labels line by line: CSV with a header, or JSON lines. Bounded in memory, whatever the file holds.

    sample_id,label[,source,confidence,labelled_at,model]

What ``hybridge labels export`` writes besides (device, captured_at, model_version, prediction, prediction_confidence)
is for the annotator and is not read back. A line whose label is empty was not filled in yet, and is no mistake.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

from hybridge_cloud.data.label import MAX_LINE_BYTES, Label
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, parse
from hybridge_edge.contract.errors import HybridgeError, Refused, UsageError

MAX_FILE_BYTES = 1024**3
MAX_LINES = 2_000_000
FORMATS = (".csv", ".jsonl")
FOR_PEOPLE = ("device", "captured_at", "model_version", "prediction", "prediction_confidence")
"""Columns of an export that an import passes over."""
COLUMNS = ("sample_id", "label", "source", "confidence", "labelled_at", "model")
_FUTURE_MS = 24 * 3600 * 1000
_CSV_FIELD_CHARACTERS = 128 * 1024


@dataclass(frozen=True, slots=True)
class Given:
    """What stands in where a line says nothing, and the importer's clock, milliseconds since 1970.

    Attributes:
        model: "" where every line must name its own; else no line may name another.
    """

    model: str
    source: str
    confidence: float
    now_ms: int


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a label of a model, or the problem with it; neither where it was not filled in."""

    number: int
    model: str = ""
    label: Label | None = None
    problem: str = ""


def read_lines(path: Path, given: Given) -> Iterator[Line]:
    """Every line of a file that is not empty.

    Raises:
        UsageError: no such file, or of another kind. Refused: it is too large, no UTF-8, or no CSV, with the line.
    """
    if path.suffix not in FORMATS:
        raise UsageError(f"{path} is neither .csv nor .jsonl.", "Name the file by what it holds.")
    number = 0
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Refused(f"{path} is larger than {MAX_FILE_BYTES} bytes.", "Split it.")
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line in _csv(path, file, given) if path.suffix == ".csv" else _jsonl(file, given):
                number = line.number
                if number > MAX_LINES:
                    raise Refused(f"{path} has more than {MAX_LINES} lines.", "Split it.")
                yield line
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Name a file of labels.") from None
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text after line {number}.", "Write it again as UTF-8.") from None


def _jsonl(file: TextIO, given: Given) -> Iterator[Line]:
    number = 0
    while text := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(text) > MAX_LINE_BYTES:
            while text and not text.endswith("\n"):  # the rest of it, without holding it
                text = file.readline(MAX_LINE_BYTES)
            yield Line(number, problem=f"it is longer than {MAX_LINE_BYTES} characters")
        elif text.strip():
            try:
                reader = parse(text, "label", MAX_LINE_BYTES)
            except HybridgeError as error:
                yield Line(number, problem=error.message)
            else:
                yield _line(number, reader, given)


def _csv(path: Path, file: TextIO, given: Given) -> Iterator[Line]:
    rows = csv.reader(_short(path, file))
    try:
        header = next(rows, [])
        if not {"sample_id", "label"} <= set(header) or len(set(header)) != len(header):
            raise Refused(
                f"{path} lacks the columns sample_id and label, or has one twice.", "Write them in the first line."
            )
        for row in rows:
            if any(field.strip() for field in row):
                yield _row(rows.line_num, header, row, given)
    except csv.Error as error:
        raise Refused(f"{path} is not CSV after line {rows.line_num}: {error}.", "Correct it.") from None


def _short(path: Path, file: TextIO) -> Iterator[str]:
    """The file's lines, none longer than the CSV reader takes of a field."""
    number = 0
    while text := file.readline(_CSV_FIELD_CHARACTERS + 1):
        number += 1
        if len(text) > _CSV_FIELD_CHARACTERS:
            raise csv.Error(f"line {number} is longer than {_CSV_FIELD_CHARACTERS} characters")
        yield text


def _row(number: int, header: list[str], row: list[str], given: Given) -> Line:
    if len(row) > len(header):
        return Line(number, problem=f"it has {len(row)} columns, the header {len(header)}")
    fields: dict[str, object] = {name: text for name, text in zip(header, row, strict=False) if text}
    if confidence := fields.get("confidence"):
        try:
            fields["confidence"] = float(str(confidence))
        except ValueError:
            pass  # stays text, which the reader refuses with its name
    return _line(number, Reader(fields, "label"), given)


def _line(number: int, reader: Reader, given: Given) -> Line:
    try:
        return _read(number, reader, given)
    except HybridgeError as error:
        return Line(number, problem=error.message)


def _read(number: int, reader: Reader, given: Given) -> Line:
    for name in FOR_PEOPLE:
        reader.ignore(name)
    model = reader.text("model", given.model)
    if not model:
        raise Refused("It names no model, and none was given with --model.")
    if given.model and names.model_name(model) != given.model:
        raise Refused(f"It is of the model {model[:64]!r}, not of {given.model!r}.")
    sample, text = reader.text("sample_id", check=names.sample_id), reader.text("label", "").strip()
    source = reader.text("source", given.source)
    confidence = reader.number("confidence", given.confidence)
    said = [name for name in ("labelled_at", "at_ms") if name in reader.names()]
    if len(said) > 1:
        raise Refused("It says when in two ways, labelled_at and at_ms.")
    at_ms = reader.integer("at_ms", 0) if said == ["at_ms"] else _moment(reader.text("labelled_at", ""))
    reader.close()
    if at_ms > given.now_ms + _FUTURE_MS:
        raise Refused("It was said in the future.")
    return Line(number, model, Label(sample, text, source, confidence, at_ms) if text else None)


def _moment(text: str) -> int:
    """Milliseconds since 1970 of a time with its zone (ISO 8601), 0 of ""."""
    return moment(text) if text else 0


def moment(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 time such as 2026-11-28T09:30:00Z; a day alone is its first moment, UTC.

    Raises:
        Refused: it is no such time, or lies before 1970.
    """
    try:
        found = datetime.fromisoformat(text)
        if len(text) == len("2026-11-28"):
            found = found.replace(tzinfo=timezone.utc)
        if found.tzinfo is None:
            raise ValueError("no zone")
        at_ms = round(found.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Refused(f"{text[:40]!r} is no time with a zone.", "Write it as 2026-11-28T09:30:00Z.") from None
    if at_ms < 0:
        raise Refused(f"{text[:40]!r} lies before 1970.")
    return at_ms


def written(at_ms: int) -> str:
    """A time as ``moment`` reads it, to the millisecond; "" of a time no calendar here holds."""
    try:
        seconds, rest = divmod(at_ms, 1000)
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
    except (ValueError, OverflowError, OSError):
        return ""
