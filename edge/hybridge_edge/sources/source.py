"""What a source is, and how one is found by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from hybridge_edge.arrays import Array
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.errors import Refused, UsageError
from hybridge_edge.mqtt import Connection

GROUP = "hybridge_edge.sources"
"""Entry points of a wheel that brings a source: NAME = "MODULE:FUNCTION", FUNCTION as ``Open``."""
_OURS = {
    "mqtt": "hybridge_edge.sources.mqtt",
    "replay": "hybridge_edge.sources.replay",
    "greengrass": "hybridge_edge.sources.greengrass",
    "camera": "hybridge_edge.sources.camera",
}
DEFAULT = "mqtt"


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """Raw values of one moment.

    Attributes:
        sample_id: what labels will come under (``names.sample_id``).
        inputs: the model's inputs by name, without a batch axis; an encoded one is an array of one bytes object, (1,).
    """

    sample_id: str
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """received = taken + dropped + duplicates + invalid + those in the queue.

    Attributes:
        late: moments of a rate that went by without a reading. lost: how often the device or connection went away.
    """

    received: int = 0
    taken: int = 0
    dropped: int = 0
    duplicates: int = 0
    invalid: int = 0
    late: int = 0
    lost: int = 0


class Source(Protocol):
    """Gives readings, one after the other. ``next`` and ``close`` are called by one thread.

    Attributes:
        ended: no reading will come any more, such as at the end of a file.
    """

    @property
    def ended(self) -> bool: ...

    def next(self, seconds: float) -> Reading | None:
        """The oldest reading that waits, or None where none came within ``seconds``."""
        ...

    def counters(self) -> SourceCounters: ...

    def close(self) -> None:
        """Stop, within seconds."""
        ...


@dataclass(frozen=True, slots=True)
class Context:
    """What a source is opened with.

    Attributes:
        thing: this device's name. configuration: all settings of the pipeline, a plugin's own ones among them.
        connection: makes the pipeline's one connection to the MQTT broker, or gives it again; it starts later.
    """

    thing: str
    configuration: Configuration
    connection: Callable[[], Connection]


Open = Callable[[Context], Source]
"""Makes a source and has it start. Raises UsageError where a setting is wrong, and must not wait for a device."""


def open_source(name: str, context: Context) -> Source:
    """Open a source by its name: one of ours, else an entry point of GROUP.

    Raises:
        UsageError: there is no such source, or a setting is wrong. Refused: what it needs is not installed.
    """
    if name in _OURS:
        ours: Open = importlib.import_module(_OURS[name]).open_source
        return ours(context)
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise UsageError(f"There is no source {name[:80]!r}.", f"Use one of {', '.join([*_OURS, *sorted(found)])}.")
    try:
        theirs: Open = found[name].load()
    except (ImportError, AttributeError) as error:
        raise Refused(
            f"The source {name!r} ({found[name].value}) cannot be loaded: {error}.", "Install it again."
        ) from None
    return theirs(context)
