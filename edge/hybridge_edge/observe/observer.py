"""Starts what the settings ask for: the metrics page, and CloudWatch's lines."""

from __future__ import annotations

import os
import sys

from hybridge_edge.observe.embedded import EmbeddedWriter
from hybridge_edge.observe.exposition import CONTENT_TYPE, to_text
from hybridge_edge.observe.families import families
from hybridge_edge.observe.page import MetricsPage
from hybridge_edge.observe.readings import Reader
from hybridge_edge.serving.service import Service
from hybridge_edge.settings import ServeSettings
from hybridge_edge.store import Store

UNNAMED = "unnamed"
"""The device in CloudWatch's lines where AWS_IOT_THING_NAME does not name it."""


class Observer:
    """What was started; ``metrics`` is HOST:PORT of the page, or ""."""

    def __init__(self, page: MetricsPage | None, reader: Reader) -> None:
        self._page = page
        self._reader = reader
        self._writer: EmbeddedWriter | None = None
        self._seconds = 0.0
        self.metrics = page.tcp if page is not None else ""

    def embed(self, seconds: float) -> None:
        """Write CloudWatch's lines every so many seconds from now on, or with 0 none."""
        if seconds == self._seconds:
            return
        if self._writer is not None:
            self._writer.close()
        device = os.environ.get("AWS_IOT_THING_NAME") or UNNAMED
        self._seconds = seconds
        self._writer = EmbeddedWriter(seconds, device, self._reader.read, sys.stdout) if seconds > 0 else None

    def close(self) -> None:
        """The last lines, and an end."""
        if self._writer is not None:
            self._writer.close()
        if self._page is not None:
            self._page.close()


def start(settings: ServeSettings, service: Service, store: Store, version: str) -> Observer:
    """Show the server to whoever watches it, as the settings say, from now on.

    Raises:
        UsageError: the metrics are not to be on loopback. Unavailable: their port cannot be had.
    """
    reader = Reader(service, store, settings.spool, version)
    page = None
    if settings.metrics:
        page = MetricsPage(settings.metrics, CONTENT_TYPE, lambda: to_text(families(reader.read())))
    observer = Observer(page, reader)
    observer.embed(settings.embedded_metrics)
    return observer
