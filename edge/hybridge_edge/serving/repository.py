"""What the protocol's repository verbs ask of whoever keeps the packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hybridge_edge.serving.residents import Residents
from hybridge_edge.store import Store


@dataclass(frozen=True, slots=True)
class Entry:
    """A version on record; ``reason`` says why it may not answer, "" where it might."""

    model: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Repository:
    """The way to what is on disk.

    Attributes:
        load: have a model's active version answer again. unload: have it answer no more; both take its name and raise
            ModelNotFound or another of our errors. index: every version on record, whether it answers or not.
    """

    load: Callable[[str], None]
    unload: Callable[[str], None]
    index: Callable[[], tuple[Entry, ...]]

    @classmethod
    def of(cls, store: Store, residents: Residents, load: Callable[[str], None]) -> Repository:
        """The repository that a device's store is; an unloaded model comes back by ``load`` or with the next start."""

        def unload(model: str) -> None:
            residents.find(model, "")
            residents.unload(model)

        return cls(load, unload, lambda: tuple(_entries(store)))


def _entries(store: Store) -> Iterator[Entry]:
    """Active and previous versions, then those that may not run, each version of a model once."""
    for record in store.records().values():
        known = {item.version: "" for item in (record.active, record.previous) if item is not None}
        for verdict in (*record.quarantined, *record.refused):
            known.setdefault(verdict.version, verdict.reason)
        for version, reason in known.items():
            yield Entry(record.model, version, reason)
