"""Files played as if a sensor gave them: .npy arrays, .csv tables, folders of pictures.

With a rate a file is a sensor: it goes on whoever keeps up, and what nobody takes in time is dropped. Without one it is
read as fast as it is taken, and nothing is dropped.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy

from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.codec import MAX_ENCODED_BYTES
from hybridge_edge.contract.errors import HybridgeError, Unavailable, UsageError
from hybridge_edge.sources.messages import encoded, plain
from hybridge_edge.sources.pacing import MAX_HERTZ
from hybridge_edge.sources.polled import PolledSource, Spoilt
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Context, Reading, Source, SourceCounters

PICTURES = frozenset({".jpg", ".jpeg", ".png"})
KINDS = PICTURES | {".npy", ".csv"}
MAX_FILES = 100_000
MAX_STEPS = 65_536
MAX_LINE_CHARACTERS = 64 * 1024
MAX_COLUMNS = 4096
_log = logging.getLogger(__name__)


def open_source(context: Context) -> Source:
    """Settings: sourcePath (a file or a folder), sourceInput, sourceRate, sourceLoop, sourceSteps, sourceQueue.

    Raises:
        UsageError: a setting is wrong, or there is nothing to play.
    """
    settings = context.configuration
    hertz = settings.number("sourceRate", 0.0, 0.0, MAX_HERTZ)
    repeat = settings.boolean("sourceLoop", False)
    files = Files(settings)
    queue = ReadingQueue.of(settings)
    return PolledSource(files, queue, hertz, repeat=repeat) if hertz else Pulled(files, repeat=repeat)


class Files:
    """The files of a path in order, each as readings of one input.

    Sample ids: a picture's is FOLDER/STEM, a row's STEM/ROW; from the second pass on with the pass before it.
    """

    live = False

    def __init__(self, settings: Configuration) -> None:
        path = Path(settings.required("sourcePath"))
        self._input = settings.required("sourceInput")
        self._steps = settings.integer("sourceSteps", 1, 1, MAX_STEPS)
        self._paths = _found(path)
        self._passes = -1
        self._rows: Iterator[Reading | Spoilt] = iter(())

    def open(self) -> float:
        self._passes += 1
        self._rows = self._readings(f"pass{self._passes}/" if self._passes else "")
        return 0.0

    def skip(self) -> None:
        next(self._rows, None)

    def read(self) -> Reading | None:
        found = next(self._rows, None)
        if isinstance(found, Spoilt):
            raise found
        return found

    def close(self) -> None:
        self._rows = iter(())

    def _readings(self, prefix: str) -> Iterator[Reading | Spoilt]:
        for path in self._paths:
            stem = plain(path.stem)[:64]
            try:
                if path.suffix.lower() in PICTURES:
                    folder = plain(path.parent.name)[:40] or "pictures"
                    yield encoded(self._input, f"{prefix}{folder}/{stem}", _content(path))
                elif path.suffix.lower() == ".npy":
                    yield from self._array(path, f"{prefix}{stem}")
                else:
                    yield from self._table(path, f"{prefix}{stem}")
            except HybridgeError as error:
                yield Spoilt(error.message, error.remedy)
            except (OSError, ValueError, csv.Error) as error:
                yield Spoilt(f"{path} cannot be read: {error}.")

    def _array(self, path: Path, prefix: str) -> Iterator[Reading]:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
        for row in range(len(array) if array.ndim else 0):
            yield Reading(f"{prefix}/{row}", {self._input: numpy.array(array[row])})

    def _table(self, path: Path, prefix: str) -> Iterator[Reading]:
        """Windows of sourceSteps lines, (steps, columns) FP32, one after the other; of one line, (columns,)."""
        with path.open(newline="", encoding="utf-8") as file:
            lines: list[list[float]] = []
            columns = 0
            for number, line in enumerate(csv.reader(_bounded(file, path))):
                if number == 0 and not all(map(_is_number, line)):
                    continue  # the names of the columns
                columns = columns or len(line)
                if len(line) > MAX_COLUMNS or len(line) != columns:
                    raise UsageError(f"Line {number + 1} of {path} has {len(line)} columns.", "Give each line as many.")
                lines.append([float(value) for value in line])
                if len(lines) == self._steps:
                    values = numpy.array(lines, numpy.float32)
                    first = number - self._steps + 1
                    yield Reading(f"{prefix}/{first}", {self._input: values if self._steps > 1 else values[0]})
                    lines = []


class Pulled:
    """Readings as fast as they are taken."""

    def __init__(self, files: Files, *, repeat: bool) -> None:
        self._files = files
        self._repeat = repeat
        self._taken = self._invalid = 0
        self._ended = False
        self._files.open()

    @property
    def ended(self) -> bool:
        return self._ended

    def next(self, seconds: float) -> Reading | None:
        if self._ended:
            return None
        try:
            found = self._files.read()
        except Spoilt as error:
            self._invalid += 1
            _log.warning("A reading was not taken: %s", error)
            return None
        if found is not None:
            self._taken += 1
        elif self._repeat and self._taken:
            self._files.open()
        else:
            self._ended = True
        return found

    def counters(self) -> SourceCounters:
        return SourceCounters(received=self._taken + self._invalid, taken=self._taken, invalid=self._invalid)

    def close(self) -> None:
        self._ended = True
        self._files.close()


def _found(path: Path) -> list[Path]:
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in KINDS)
    else:
        raise UsageError(f"sourcePath is {str(path)[:200]!r}, which is no file and no folder.", "Correct the path.")
    if any(entry.suffix.lower() not in KINDS for entry in paths) or not 1 <= len(paths) <= MAX_FILES:
        raise UsageError(
            f"{str(path)[:200]!r} holds {len(paths)} files that can be played.",
            f"Give 1 to {MAX_FILES} files that end in {', '.join(sorted(KINDS))}.",
        )
    return paths


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_ENCODED_BYTES + 1)
    if not 1 <= len(data) <= MAX_ENCODED_BYTES:
        raise Unavailable(f"{path} is empty or larger than {MAX_ENCODED_BYTES} bytes.")
    return data


def _bounded(file: TextIO, path: Path) -> Iterator[str]:
    while line := file.readline(MAX_LINE_CHARACTERS + 1):
        if len(line) > MAX_LINE_CHARACTERS:
            raise UsageError(f"A line of {path} is longer than {MAX_LINE_CHARACTERS} characters.", "Give a table.")
        yield line


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
