"""What the uplink says of itself: one small file in the runtime folder, replaced whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import InvalidDocument

STATUS_FILE = "uplink.json"
MAX_STATUS_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class UplinkStatus:
    """What the uplink has done, as ``uplink.json`` in the runtime folder says it.

    Attributes:
        returned: samples in S3 in the spool's whole life. batches: since this start.
        missing, damaged, torn: as spool.Cursor counts them. unreadable: whole records that are no samples.
        waiting_bytes: in the spool. last_success_ms: milliseconds since 1970, 0 before the first. error: "" when well.
    """

    returned: int = 0
    batches: int = 0
    missing: int = 0
    damaged: int = 0
    torn: int = 0
    unreadable: int = 0
    waiting_bytes: int = 0
    last_success_ms: int = 0
    error: str = ""

    @classmethod
    def read(cls, folder: Path) -> UplinkStatus:
        """The last status written to this runtime folder; zeros where no uplink has run."""
        try:
            reader = parse((folder / STATUS_FILE).read_bytes(), "uplink's status", MAX_STATUS_BYTES)
            status = cls(
                returned=reader.integer("returned"),
                batches=reader.integer("batches"),
                missing=reader.integer("missing"),
                damaged=reader.integer("damaged"),
                torn=reader.integer("torn"),
                unreadable=reader.integer("unreadable"),
                waiting_bytes=reader.integer("waiting_bytes"),
                last_success_ms=reader.integer("last_success_ms"),
                error=reader.text("error"),
            )
            reader.close()
        except (OSError, InvalidDocument):
            return cls()
        return status

    def write(self, folder: Path) -> None:
        """Replace the status in this runtime folder. Raises SpoolFull or OSError where it cannot be written."""
        durable.write(folder / STATUS_FILE, canonical(asdict(self)))
