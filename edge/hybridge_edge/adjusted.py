"""What of a running worker goes by settings that can change: the other end of ``live_settings``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hybridge_edge import runtime
from hybridge_edge.contract.errors import Unavailable
from hybridge_edge.observe import logs
from hybridge_edge.observe.observer import Observer
from hybridge_edge.reporting import Reporter
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.watchdog import Watchdog
from hybridge_edge.settings import ServeSettings


class Adjusted:
    """What goes by settings that can change while the server runs.

    Args:
        endpoint: as it is published, but for the spool.
    """

    def __init__(
        self,
        service: Service,
        watchdog: Watchdog,
        reporter: Reporter | None,
        watched: Observer,
        endpoint: runtime.Endpoint,
        runtime_folder: Path,
    ) -> None:
        self._service = service
        self._watchdog = watchdog
        self._reporter = reporter
        self._watched = watched
        self._endpoint = endpoint
        self._runtime_folder = runtime_folder

    def apply(self, settings: ServeSettings) -> None:
        """Go by these from now on."""
        logs.configure(settings.log_format, settings.log_level)
        self._service.live.share = settings.live_share
        self._service.shadowing.share = settings.shadow_share
        self._watchdog.limit_s = settings.run_seconds
        self.bound_sequences(settings)
        self._watched.embed(settings.embedded_metrics)
        if self._reporter is not None:
            self._reporter.evaluating_seconds = settings.report_seconds
        had = self._service.capture is not None
        self.capture(settings)
        if not had and self._service.capture is not None:
            self.publish()

    def bound_sequences(self, settings: ServeSettings) -> None:
        """Sequences that run already stay, whatever the limits are now."""
        sequences = self._service.sequences
        sequences.count, sequences.megabytes = settings.sequences, settings.sequence_megabytes
        sequences.seconds = settings.sequence_seconds

    def capture(self, settings: ServeSettings) -> None:
        """Keep what the settings say; a spool that was begun is kept, since labels and the uplink go on with it."""
        capture = self._service.capture
        if capture is None and not settings.captures:
            return
        from hybridge_edge.capture import Capture, CapturePolicy

        policy = CapturePolicy(settings.capture_share, settings.capture_confidence_below)
        limit = settings.spool_megabytes * 1024 * 1024
        if capture is None:
            self._service.capture = Capture(policy, settings.spool, limit)
        else:
            capture.change(policy, limit)

    def publish(self) -> None:
        """Write endpoint.json, by which an uplink finds the spool."""
        capture = self._service.capture
        endpoint = replace(self._endpoint, spool=str(capture.folder) if capture is not None else "")
        try:
            endpoint.write(self._runtime_folder)
        except OSError as error:
            raise Unavailable(f"{self._runtime_folder} cannot be written: {error}.", "Look at its disk.") from None
