"""Which packages passed their trial on this device, and what they were measured to cost: STORE/passed.json. Format 1.

A trial holds for one digest under one version of the runtime. So a restart runs none, and neither does a package that
comes back. A file that cannot be read is an empty one: trials are made again.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hybridge_edge import durable, failpoint
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument

_LOG = logging.getLogger(__name__)
FORMAT = 1
FILE = "passed.json"
MAX_PASSED = 128
"""The oldest is forgotten first."""
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What a package cost where it was tried and warmed up; 0 where that was not measured.

    Attributes:
        memory_kib: what the process grew by while it was loaded and answered its golden inputs, at its peak.
        trial_ms: how long the child took, its start included.
        p50_us, p99_us: of one row, features and model.
    """

    memory_kib: int = 0
    trial_ms: int = 0
    p50_us: int = 0
    p99_us: int = 0

    @property
    def memory_megabytes(self) -> int:
        return -(-self.memory_kib // 1024)

    def __str__(self) -> str:
        return f"p50 {self.p50_us} us, p99 {self.p99_us} us a row, {self.memory_megabytes} MB"


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    runtime: str
    measured: Measured

    def to_json(self) -> dict[str, object]:
        return {"digest": self.digest, "runtime": self.runtime, **asdict(self.measured)}

    @classmethod
    def read(cls, reader: Reader) -> _Entry:
        measured = Measured(**{name: reader.integer(name) for name in Measured.__slots__})
        return cls(reader.text("digest", check=names.digest), reader.text("runtime"), measured)


class Passed:
    """The list, in memory and on disk; one thread writes it."""

    def __init__(self, store: Path) -> None:
        self._path = store / FILE
        self._entries = {(entry.digest, entry.runtime): entry for entry in _read(self._path)}

    def find(self, digest: str, runtime: str) -> Measured | None:
        """What was measured when this digest passed under this runtime, or None where it did not."""
        entry = self._entries.get((digest, runtime))
        return entry.measured if entry is not None else None

    def remember(self, digest: str, runtime: str, measured: Measured) -> None:
        """Make it durable; where the disk has no room it is tried again after the next start."""
        if self.find(digest, runtime) == measured:
            return
        entry = _Entry(digest, runtime, measured)
        self._entries.pop((digest, runtime), None)
        self._entries[digest, runtime] = entry
        for oldest in list(self._entries)[:-MAX_PASSED]:
            del self._entries[oldest]
        entries = [one.to_json() for one in self._entries.values()]
        try:
            durable.write(self._path, canonical({"format": FORMAT, "passed": entries}))
        except (HybridgeError, OSError) as error:
            _LOG.error("That %s passed its trial is not remembered: %s", digest[:19], error)
        failpoint.reach("passed.written")

    def warmed_up(self, digest: str, runtime: str, p50_us: int, p99_us: int) -> Measured:
        """Add what a warm-up measured."""
        measured = replace(self.find(digest, runtime) or Measured(), p50_us=p50_us, p99_us=p99_us)
        self.remember(digest, runtime, measured)
        return measured


def _read(path: Path) -> tuple[_Entry, ...]:
    try:
        reader = parse(path.read_bytes(), "list of passed trials", MAX_BYTES)
        reader.format(FORMAT)
        entries = reader.objects("passed", _Entry.read)
        reader.close()
    except FileNotFoundError:
        return ()
    except (OSError, InvalidDocument) as error:
        _LOG.warning("Packages are tried again: %s", error)
        return ()
    return entries
