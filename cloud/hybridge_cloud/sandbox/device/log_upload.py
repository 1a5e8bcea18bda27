"""The sandbox's stand-in for AWS' log manager: it sends component logs to the account's CloudWatch Logs.

Groups and streams are named as the log manager names them, so whatever reads logs reads both. It sends what was written
since the last time, at least once: where the account does not answer, the same lines are sent again.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from hybridge_cloud.aws import session
from hybridge_cloud.fleet.logs import group_prefix, stream
from hybridge_edge.contract.errors import Conflict, HybridgeError

PERIOD_SECONDS = 2.0
"""Shorter than the log manager's five minutes: nobody pays for a line here."""
CLOSE_SECONDS = 2.0
MAX_BYTES = 256 * 1024
"""Of one log, sent at once; a batch may have 1,048,576 bytes, 26 more an event (CloudWatch Logs, PutLogEvents)."""
MAX_LINE_BYTES = 8 * 1024
POSITIONS = ".uploaded.json"
_log = logging.getLogger(__name__)


class LogUpload:
    """Sends the logs of one device, from a thread of its own.

    Args:
        folder: the device's logs, ``COMPONENT.log`` each. region: of the account.
        leave: file names that are no component's log.
    """

    def __init__(self, folder: Path, thing: str, region: str, leave: frozenset[str] = frozenset()) -> None:
        self._folder, self._thing, self._region, self._leave = folder, thing, region, leave
        self._positions = self._read()
        self._made: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-upload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Send what is there, once more, and stop."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)

    def send(self) -> None:
        """Send what was written since the last time. Raises HybridgeError where the account does not take it."""
        for path in sorted(self._folder.glob("*.log")):
            if path.name not in self._leave:
                self._send(path)

    def _run(self) -> None:
        said = ""
        while True:
            is_last = self._stop.wait(PERIOD_SECONDS)
            try:
                self.send()
                said = ""
            except (HybridgeError, OSError) as error:
                if str(error) != said:
                    _log.warning("Logs were not sent: %s", error)
                said = str(error)
            if is_last:
                return

    def _send(self, path: Path) -> None:
        size, inode = path.stat().st_size, path.stat().st_ino
        position, known = self._positions.get(path.name, (0, inode))
        if known != inode or position > size:
            position = 0  # set aside and begun again: what was not sent of the one before is not sent any more
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(MAX_BYTES)
        whole = data.rpartition(b"\n")[0] if len(data) < MAX_BYTES or b"\n" in data else data
        now = datetime.now(UTC)
        lines = [line[:MAX_LINE_BYTES].decode(errors="replace") for line in whole.split(b"\n") if line.strip()]
        if lines:
            at_ms = time.time_ns() // 1_000_000
            group, name = group_prefix(self._region) + path.stem, stream(self._thing, now)
            self._make(group, name)
            events = [{"timestamp": at_ms, "message": line} for line in lines]
            session.call("logs", "put_log_events", logGroupName=group, logStreamName=name, logEvents=events)
        sent = len(whole) + (1 if len(whole) < len(data) else 0)
        if sent or known != inode:
            self._positions[path.name] = (position + sent, inode)
            self._write()

    def _make(self, group: str, name: str) -> None:
        if (group, name) in self._made:
            return
        for operation, given in (
            ("create_log_group", {"logGroupName": group}),
            ("create_log_stream", {"logGroupName": group, "logStreamName": name}),
        ):
            try:
                session.call("logs", operation, **given)
            except Conflict:
                pass  # it is there
        self._made.add((group, name))

    def _read(self) -> dict[str, tuple[int, int]]:
        try:
            found = json.loads((self._folder / POSITIONS).read_bytes())
            return {str(name): (int(at), int(inode)) for name, (at, inode) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self) -> None:
        temporary = self._folder / (POSITIONS + ".new")
        temporary.write_text(json.dumps(self._positions))
        temporary.replace(self._folder / POSITIONS)
