"""Greengrass' local publish/subscribe: binary messages of a topic from other components of this device."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from hybridge_edge import greengrass
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable
from hybridge_edge.sources.messages import taker
from hybridge_edge.sources.queue import ReadingQueue
from hybridge_edge.sources.source import Context, Reading, Source, SourceCounters

RETRY_SECONDS = 30.0
CLOSE_SECONDS = 15.0
_log = logging.getLogger(__name__)


def open_source(context: Context) -> Source:
    """Settings: sourceTopic (default sensors/THING/windows), sourceQueue, and those of ``messages.taker``.

    The component's accessControl must allow SubscribeToTopic on the topic; the recipe does for ``sensors/*/windows``.
    Messages of more than 5 KB do not travel this way on nucleus lite.

    Raises:
        UsageError: a setting is wrong. Refused: this process was not started by a nucleus.
    """
    topic = context.configuration.topic("sourceTopic", names.windows_topic(context.thing))
    if not greengrass.has_nucleus():
        raise Refused(
            "There is no Greengrass nucleus to subscribe at.", "Run it as a component, or use another source."
        )
    queue = ReadingQueue.of(context.configuration)
    return Subscription(topic, queue, taker(queue, context.configuration, context.thing))


class Subscription:
    """A subscription that is made again when the connection to the nucleus ended.

    Args:
        take: called with each message, in a thread of the SDK.
    """

    def __init__(self, topic: str, queue: ReadingQueue, take: Callable[[bytes], None]) -> None:
        self._topic = topic
        self._queue = queue
        self._take = take
        self._backoff = Backoff(RETRY_SECONDS)
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="greengrass-source", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self._queue.ended

    def next(self, seconds: float) -> Reading | None:
        return self._queue.next(seconds)

    def counters(self) -> SourceCounters:
        return self._queue.counters()

    def close(self) -> None:
        self._stopped = True
        self._wake.set()
        self._queue.close()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        complaint = ""
        while not self._stopped:
            self._wake.clear()
            try:
                nucleus = greengrass.connect(self._wake.set)
                assert nucleus is not None  # ``open_source`` has looked
                with nucleus:
                    nucleus.subscribe(self._topic, self._take)
                    self._backoff.succeeded()
                    complaint = ""
                    if self._stopped:
                        return
                    self._wake.wait()
                if self._stopped:
                    return
                raise Unavailable("The connection to the Greengrass nucleus ended.", "Check the nucleus.")
            except HybridgeError as error:
                self._queue.lost()
                if str(error) != complaint:
                    _log.warning("%s It is tried again.", error)
                complaint = str(error)
                self._wake.clear()
                if not self._stopped:
                    self._wake.wait(self._backoff.wait())
