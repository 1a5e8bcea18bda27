"""Log lines: for people, or one JSON object each. Nothing is logged for a request that is answered."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone

TEXT_FORMAT = "%(levelname)s %(name)s: %(message)s"
MAX_MESSAGE = 8 * 1024
"""Characters of a message, and of a traceback."""
FIELDS = ("incident", "model", "version")
"""What a caller of the logger may give as ``extra``, and stands in the line where it was given."""


class JsonLines(logging.Formatter):
    """A record as one JSON object: time (UTC, RFC 3339), level, logger, message, FIELDS, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, timezone.utc)
        fields: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage()[:MAX_MESSAGE],
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                fields[name] = str(value)[:MAX_MESSAGE]
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)[-MAX_MESSAGE:]
        return json.dumps(fields, ensure_ascii=False)


def configure(log_format: str, level: str = "info") -> None:
    """Log to the error stream from now on, as ``log_format`` says: "text" or "json"; nothing below ``level``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(TEXT_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
