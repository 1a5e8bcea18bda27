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

    def __init__(self, page: MetricsPage | None, writer: EmbeddedWriter | None) -> None:
        self._page = page
        self._writer = writer
        self.metrics = page.tcp if page is not None else ""

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
    page = writer = None
    if settings.metrics:
        page = MetricsPage(settings.metrics, CONTENT_TYPE, lambda: to_text(families(reader.read())))
    if settings.embedded_metrics > 0:
        device = os.environ.get("AWS_IOT_THING_NAME") or UNNAMED
        writer = EmbeddedWriter(settings.embedded_metrics, device, reader.read, sys.stdout)
    return Observer(page, writer)
