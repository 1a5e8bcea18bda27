"""A deployment's configuration, followed while the server runs: what is LIVE at once, the rest at the next start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from hybridge_edge import durable
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, UsageError
from hybridge_edge.settings import ServeSettings, Source

FILE = "settings.json"
"""In the runtime folder: the settings that hold now, for the supervisor."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SettingsStanding:
    """What of a configuration holds.

    Attributes:
        followed: whether there is a deployment to follow. live: what holds now of what can change, by name.
        waiting: names of settings that the deployment changed and that hold from the next start.
        refused: why the newest configuration is not followed, "" where it is.
    """

    followed: bool
    live: Mapping[str, float | str]
    waiting: tuple[str, ...] = ()
    refused: str = ""


class LiveSettings:
    """The worker's settings; safe to share between threads.

    Args:
        settings: as the worker was started with. source: what wins over the deployment.
        apply: has the server go by other settings, which differ in what is LIVE alone; called in the thread of
            ``configured``.
        runtime_folder: where FILE is written.
    """

    def __init__(
        self,
        settings: ServeSettings,
        source: Source,
        apply: Callable[[ServeSettings], None],
        runtime_folder: Path,
    ) -> None:
        self._settings = settings
        self._source = source
        self._apply = apply
        self._path = runtime_folder / FILE
        self._lock = Lock()
        self._waiting: tuple[str, ...] = ()
        self._refused = ""
        self._closed = False

    def configured(self, deployed: Mapping[str, object]) -> None:
        """Go by a deployment's configuration. Where anything in it is wrong, all that held goes on to hold."""
        with self._lock:
            if self._closed:
                return
            try:
                wanted = self._source.settings(deployed)
            except UsageError as error:
                self._refused = error.message
                _LOG.error("The new configuration is refused, the settings stay as they are: %s", error)
                return
            self._refused = ""
            before, self._settings = self._settings, self._settings.following(wanted)
            self._waiting = self._settings.differing(wanted)
            changed = before.differing(self._settings)
            if changed:
                self._tell_supervisor()
                self._apply(self._settings)
                now = self._settings.live()
                _LOG.info("Settings changed: %s.", ", ".join(f"{name} is {now[name]}" for name in changed))
            if self._waiting:
                _LOG.warning("Settings that hold from the next start: %s.", ", ".join(self._waiting))

    def fault(self, deployed: Mapping[str, object]) -> str:
        """What is wrong with a configuration, "" for nothing."""
        try:
            self._source.settings(deployed)
        except UsageError as error:
            return error.message
        return ""

    def standing(self) -> SettingsStanding:
        with self._lock:
            return SettingsStanding(self._source.deployed, self._settings.live(), self._waiting, self._refused)

    def close(self) -> None:
        """Follow no more."""
        with self._lock:
            self._closed = True

    def _tell_supervisor(self) -> None:
        """It feels the pulse, writes a log, and starts the next worker."""
        try:
            durable.write(self._path, self._settings.to_json())
        except (HybridgeError, OSError) as error:
            _LOG.warning("The supervisor does not hear of the settings: %s", error)


class Told:
    """The supervisor's end: what its worker wrote."""

    def __init__(self, runtime_folder: Path) -> None:
        self._path = runtime_folder / FILE
        self._seen = 0
        self._path.unlink(missing_ok=True)  # of an earlier life, whose deployment may be another one

    def news(self) -> ServeSettings | None:
        """The settings of the worker, once after each change of theirs."""
        try:
            written = self._path.stat().st_mtime_ns
            if written == self._seen:
                return None
            self._seen = written
            return ServeSettings.from_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (InvalidDocument, OSError) as error:
            _LOG.warning("What the worker says of its settings cannot be read: %s", error)
            return None
