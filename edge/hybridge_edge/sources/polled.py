"""A source that is read: a thread opens the device, reads at a rate, and opens it again when it went away."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from hybridge_edge.backoff import Backoff
from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.sources.pacing import Pace
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Reading, SourceCounters

CLOSE_SECONDS = 15.0
"""A read of a V4L2 camera that gives nothing ends by itself after ten (OpenCV, cap_v4l.cpp)."""
RETRY_SECONDS = 30.0
"""The longest wait before a device is opened again."""
_log = logging.getLogger(__name__)


class Device(Protocol):
    """Something to read from; used by one thread at a time.

    Attributes:
        live: it goes on by itself, so that what is not read in time has to be skipped.
    """

    live: bool

    def open(self) -> float:
        """Open it, or open it again. Returns its own rate in hertz, 0 where it has none. Raises HybridgeError."""
        ...

    def skip(self) -> None:
        """Of a live device: wait for one reading and let it go by. Raises HybridgeError where the device is gone."""
        ...

    def read(self) -> Reading | None:
        """The next reading; None at the end. Raises HybridgeError where the device is gone, or this one is no good."""
        ...

    def close(self) -> None:
        """May be called twice."""
        ...


class Spoilt(HybridgeError):
    """One reading is no good; the next may be."""


class PolledSource:
    """Args:
    hertz: readings a second, 0 for the device's own rate. repeat: begin again at the end, instead of ending.
    """

    def __init__(
        self, device: Device, queue: ReadingQueue, hertz: float, *, repeat: bool, longest: float = RETRY_SECONDS
    ) -> None:
        self._device = device
        self._queue = queue
        self._hertz = hertz
        self._repeat = repeat
        self._backoff = Backoff(longest)
        self._stop = threading.Event()
        self._accident = ""
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._queue.ended and not self._accident

    def next(self, seconds: float) -> Reading | None:
        """As ``Source.next``. Raises Refused where the device ended by an accident, which must not look like an end."""
        if self._accident and self._queue.ended:
            raise Refused(f"The source ended by an accident: {self._accident}.", "See the log above.")
        return self._queue.next(seconds)

    def counters(self) -> SourceCounters:
        return self._queue.counters()

    def close(self) -> None:
        self._stop.set()
        self._queue.close()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            _log.warning("The device did not answer for %g s and is left behind.", CLOSE_SECONDS)

    def _run(self) -> None:
        complaint = ""
        try:
            while not self._stop.is_set():
                try:
                    own = self._device.open()
                    if complaint:
                        _log.info("The source is back.")
                    complaint = ""
                    if self._read_to_end(own) and not self._repeat:
                        return
                except HybridgeError as error:
                    self._queue.lost()
                    if str(error) != complaint:
                        _log.warning("%s It is tried again.", error)
                    complaint = str(error)
                    self._stop.wait(self._backoff.wait())
                finally:
                    self._device.close()
        except Exception as error:  # a plugin's device; the pipeline must end rather than wait for ever
            _log.exception("The source ended by an accident.")
            self._accident = f"{type(error).__name__} {error}"[:200]
        finally:
            self._queue.finish()

    def _read_to_end(self, own: float) -> bool:
        """Whether the end was reached."""
        device, queue = self._device, self._queue
        hertz = self._hertz or (0.0 if device.live else own)  # reads of a live device wait by themselves
        pace = Pace(hertz) if hertz else None
        while not self._stop.is_set():
            if pace is not None and (left := pace.left()) > 0:
                if not device.live:
                    self._stop.wait(left)
                else:
                    device.skip()
                continue
            if pace is not None:
                queue.missed(pace.take())
            try:
                reading = device.read()
            except Spoilt as error:
                queue.refuse(str(error))
                continue
            if reading is None:
                return True
            self._backoff.succeeded()
            queue.offer(reading)
        return False
