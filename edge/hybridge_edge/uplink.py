"""Bring samples from the spool to S3: batches of data, then their manifests, then the acknowledgement.

A batch counts as returned once its manifest lies in the bucket, and only then do its records leave the spool. Objects
are named by their content and written only where they are absent, so a repeated delivery changes nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hybridge_edge import batches, greengrass, runtime, s3_access
from hybridge_edge.backoff import Backoff
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract import names
from hybridge_edge.contract.batch import MAX_BATCH_SAMPLES
from hybridge_edge.contract.errors import Conflict, HybridgeError, InvalidDocument, Unavailable, UsageError
from hybridge_edge.s3 import Bucket, TryAgain, bucket_name
from hybridge_edge.s3_access import Access
from hybridge_edge.spool_reader import Entry, SpoolReader
from hybridge_edge.stopping import stop_event
from hybridge_edge.stream_export import DEFAULT_PORT, DEFAULT_STREAM, StreamExport
from hybridge_edge.uplink_status import UplinkStatus

BATCH_SAMPLES = 256
BATCH_SECONDS = 5.0
BATCH_BYTES = 32 * 1024 * 1024
POLL_SECONDS = 0.2
FLUSH_SECONDS = 15.0
"""How long the last batch may take after SIGTERM; a nucleus kills after 120 s, classic may be set lower."""
TAKEOVER_SECONDS = 20.0
"""How long a new uplink waits for one that was told to stop and still delivers."""
REFUSED_SECONDS = 10.0
"""The shortest wait after S3 has refused: policies change, but not within a second."""
STATUS_SECONDS = 1.0
STREAM_MANAGER = "stream-manager"
VIA = ("s3", STREAM_MANAGER)
_STREAM = re.compile(r"[A-Za-z0-9._-]{1,200}")
_log = logging.getLogger(__name__)


class Store(Protocol):
    """Where objects go: S3, Stream Manager, or a stand-in that loses some, to prove that the loss is found."""

    def put(self, key: str, data: bytes, *, only_if_absent: bool = False) -> bool: ...


class Uplink:
    """Empties one spool into one bucket until it is told to stop.

    Args:
        thing: this device. batch_samples, batch_seconds: a batch is closed by whichever comes first.
        status_folder: where uplink.json goes, or None.

    Raises:
        Conflict: another uplink reads this spool.
    """

    def __init__(
        self,
        spool_folder: Path,
        store: Store,
        thing: str,
        *,
        batch_samples: int = BATCH_SAMPLES,
        batch_seconds: float = BATCH_SECONDS,
        status_folder: Path | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._thing = names.thing_name(thing)
        self._batch_samples = batch_samples
        self._batch_seconds = batch_seconds
        self._status_folder = status_folder
        self._backoff = backoff or Backoff()
        self._reader = SpoolReader(spool_folder)
        self._status = UplinkStatus()
        self._status_at = 0.0
        self._deadline = float("inf")

    @property
    def status(self) -> UplinkStatus:
        cursor = self._reader.cursor
        return replace(
            self._status,
            returned=cursor.delivered,
            missing=cursor.missing,
            damaged=cursor.damaged,
            torn=cursor.torn,
        )

    def run(self, stop: threading.Event) -> None:
        """Deliver until ``stop``; then deliver what is in the spool, within FLUSH_SECONDS."""
        going_on = self._deliver(self._reader.unfinished(), stop, planned=True)
        while going_on and not stop.is_set():
            going_on = self._deliver(self._collect(stop), stop)
            self._write_status()
        while going_on and time.monotonic() < self._stop_at(stop):
            entries = self._read(self._batch_samples, BATCH_BYTES)
            going_on = bool(entries) and self._deliver(entries or [], stop)
        self._write_status(now=True)

    def close(self) -> None:
        self._reader.close()

    def _collect(self, stop: threading.Event) -> list[Entry]:
        """Records for one batch; waits for the first without end, for the others BATCH_SECONDS."""
        entries: list[Entry] = []
        size = 0
        end = float("inf")
        while not stop.is_set():
            found = self._read(self._batch_samples - len(entries), BATCH_BYTES - size)
            if found is None:
                entries, size = [], 0
                stop.wait(self._backoff.wait())
                continue
            entries += found
            size += sum(len(entry.body) for entry in found)
            if len(entries) >= self._batch_samples or size >= BATCH_BYTES:
                break
            if entries and end == float("inf"):
                end = time.monotonic() + self._batch_seconds
            remaining = end - time.monotonic()
            if remaining <= 0:
                break
            self._write_status()
            stop.wait(min(POLL_SECONDS, remaining))
        return entries

    def _read(self, limit: int, limit_bytes: int) -> list[Entry] | None:
        """Records, or None where the disk failed: then the reader stands at its last acknowledgement again."""
        try:
            return self._reader.read(limit, limit_bytes)
        except (HybridgeError, OSError) as error:
            self._reader.rewind()
            self._failed(f"The spool cannot be read: {error}")
            return None

    def _deliver(self, entries: list[Entry], stop: threading.Event, *, planned: bool = False) -> bool:
        """Put one group's batches and acknowledge them.

        Returns False where stopping left no time for it; then nothing more may be read or acknowledged.
        """
        if not entries:
            return True
        made = batches.make(self._thing, entries)
        if not planned and not self._until_done(self._reader.plan, stop):
            return False
        for batch in made.batches:
            done = self._put(batch.manifest.data_key, batch.data, stop)
            if not done or not self._put(batch.manifest_key, batch.manifest.to_bytes(), stop):
                return False
        for labels in made.labels:
            if not self._put(labels.key, labels.data, stop):
                return False
        for entry in made.unreadable:
            self._reader.set_aside(entry)
        if not self._until_done(self._reader.ack, stop):
            return False
        self._status = replace(
            self._status,
            batches=self._status.batches + len(made.batches),
            unreadable=self._status.unreadable + len(made.unreadable),
            last_success_ms=time.time_ns() // 1_000_000,
            error="",
        )
        return True

    def _put(self, key: str, data: bytes, stop: threading.Event) -> bool:
        def attempt() -> None:
            self._store.put(key, data, only_if_absent=True)

        return self._until_done(attempt, stop)

    def _until_done(self, attempt: _Attempt, stop: threading.Event) -> bool:
        """Try until it works, or until stopping leaves no time. Nothing leaves the spool meanwhile."""
        while True:
            try:
                attempt()
            except (HybridgeError, OSError) as error:
                self._failed(str(error))
                asked = error.seconds if isinstance(error, TryAgain) else REFUSED_SECONDS
                wait = self._backoff.wait(0.0 if isinstance(error, OSError) else asked)
                if not self._pause(wait, stop):
                    return False
            else:
                self._backoff.succeeded()
                return True

    def _pause(self, seconds: float, stop: threading.Event) -> bool:
        """Wait, less where stopping says so. Returns False where there is no time for another attempt."""
        if not stop.is_set() and not stop.wait(seconds):
            return True
        remaining = self._stop_at(stop) - time.monotonic()
        if remaining <= 0:
            return False
        time.sleep(min(seconds, remaining, 1.0))
        return time.monotonic() < self._stop_at(stop)

    def _stop_at(self, stop: threading.Event) -> float:
        """The end of the time that stopping grants, counted from when it was first noticed."""
        if stop.is_set() and self._deadline == float("inf"):
            self._deadline = time.monotonic() + FLUSH_SECONDS
        return self._deadline

    def _failed(self, error: str) -> None:
        if error != self._status.error:
            _log.warning("%s", error)
        self._status = replace(self._status, error=error[:500])
        self._write_status()

    def _write_status(self, *, now: bool = False) -> None:
        if self._status_folder is None or (not now and time.monotonic() < self._status_at):
            return
        self._status_at = time.monotonic() + STATUS_SECONDS
        status = replace(self.status, waiting_bytes=self._reader.waiting_bytes)
        try:
            status.write(self._status_folder)
        except (HybridgeError, OSError) as error:
            _log.warning("The uplink's status was not written: %s", error)


class _Attempt(Protocol):
    def __call__(self) -> None: ...


SETTINGS = {
    "bucket": "the bucket (or the environment's HYBRIDGE_BUCKET)",
    "thing": "this device's name (or AWS_IOT_THING_NAME)",
    "spool": "the spool's folder; default: what the running server says",
    "batchSamples": f"close a batch at this many samples (default {BATCH_SAMPLES})",
    "batchSeconds": f"close a batch after this many seconds (default {BATCH_SECONDS:g})",
    "via": f"who writes to S3: one of {', '.join(VIA)}; {STREAM_MANAGER} needs nucleus classic",
    "stream": f"the stream of Stream Manager (default {DEFAULT_STREAM})",
    "streamManagerPort": f"where Stream Manager listens on loopback (default {DEFAULT_PORT})",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``hybridge-edge uplink``."""
    s3_access.add_arguments(parser, SETTINGS)
    s3_access.add_arguments(parser)
    parser.add_argument("--configuration", action="store_true", help="read the settings from Greengrass")


def run(arguments: argparse.Namespace) -> int:
    """``hybridge-edge uplink``: runs until SIGTERM or SIGINT, then delivers what is there. Returns the exit code."""
    configuration = Configuration(
        {"bucket": os.environ.get("HYBRIDGE_BUCKET"), "thing": os.environ.get("AWS_IOT_THING_NAME")},
        greengrass.component_configuration() if arguments.configuration else {},
        {**s3_access.given(arguments, SETTINGS), **s3_access.given(arguments)},
    )
    thing = names.thing_name(configuration.required("thing"))
    batch_samples = configuration.integer("batchSamples", BATCH_SAMPLES, 1, MAX_BATCH_SAMPLES)
    batch_seconds = configuration.number("batchSeconds", BATCH_SECONDS, 0.05, 3600.0)
    open_store = _store(configuration)
    with stop_event() as stop:
        folder = runtime.folder()
        spool_folder = _spool_folder(configuration.text("spool"), folder, stop)
        if spool_folder is None:
            return 0
        store = open_store(spool_folder)

        def take() -> Uplink:
            return Uplink(
                spool_folder,
                store,
                thing,
                batch_samples=batch_samples,
                batch_seconds=batch_seconds,
                status_folder=folder,
            )

        uplink = _taken_over(take, stop)
        if uplink is None:
            return 0
        _log.info("Returning samples from %s to bucket %s.", spool_folder, store.name)
        try:
            uplink.run(stop)
        finally:
            uplink.close()
            if isinstance(store, StreamExport):
                store.close()
    return 0


def _store(configuration: Configuration) -> Callable[[Path], Bucket | StreamExport]:
    """What makes the store for a spool's folder, all settings checked. Raises UsageError."""
    name = bucket_name(configuration.required("bucket"))
    stream = configuration.text("stream", DEFAULT_STREAM)
    port = configuration.integer("streamManagerPort", DEFAULT_PORT, 1, 65535)
    access = Access.read(configuration)
    if configuration.choice("via", VIA) != STREAM_MANAGER:
        bucket = Bucket(name, access=access)
        return lambda _: bucket
    if greengrass.is_lite():
        raise UsageError(
            "via is stream-manager, and this device runs nucleus lite: Stream Manager is a Java component, which only "
            "nucleus classic runs.",
            "Set via to s3.",
        )
    if access != Access():
        raise UsageError(
            "via is stream-manager, which writes to S3 of the device's region alone.",
            f"Set via to s3, or leave out {', '.join(s3_access.SETTINGS)}.",
        )
    if _STREAM.fullmatch(stream) is None:
        raise UsageError(f"stream is {stream[:80]!r}.", "Write 1 to 200 letters, digits, dots, hyphens or underscores.")
    # Beside the spool, and not in it: the spool puts files that are not its own into quarantine.
    return lambda spool: StreamExport(name, spool.with_name(f"{spool.name}-export"), port=port, stream=stream)


def _taken_over(take: Callable[[], Uplink], stop: threading.Event) -> Uplink | None:
    """The spool's uplink, once the one before has ended. None: stopped. Raises Conflict after TAKEOVER_SECONDS."""
    until = time.monotonic() + TAKEOVER_SECONDS
    while True:
        try:
            return take()
        except Conflict:
            if time.monotonic() >= until:
                raise
        if stop.wait(POLL_SECONDS):
            return None


def _spool_folder(given: str, folder: Path, stop: threading.Event) -> Path | None:
    """The spool that was named, or the one the server publishes; waits for a server that spools. None: stopped."""
    if given:
        return Path(given)
    told = False
    while not stop.is_set():
        try:
            found = runtime.Endpoint.read(folder).spool
        except (Unavailable, InvalidDocument):
            found = ""
        if found:
            return Path(found)
        if not told:
            _log.info("Waiting for a server with a spool to start in %s.", folder)
            told = True
        stop.wait(1.0)
    return None
