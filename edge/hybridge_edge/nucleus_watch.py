"""A standing connection to the nucleus: hears of configuration, has a say in updates, and comes back after a restart.

Without a nucleus it does nothing. Where the nucleus lacks an operation (lite has no say in updates) the rest goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from hybridge_edge import greengrass
from hybridge_edge.backoff import Backoff
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable
from hybridge_edge.greengrass import Nucleus

RECHECK_SECONDS = 0.5
"""Between two questions whether an update may go on."""
OBJECTION_SECONDS = 60.0
"""The longest that one update waits."""
RETRY_SECONDS = 60.0
CLOSE_SECONDS = 15.0
_log = logging.getLogger(__name__)
_Asked = TypeVar("_Asked")


class Objection:
    """Asks for an update to wait while something is under way, but not for ever: what is put back must come through.

    Args:
        busy: whether something is under way. recheck: seconds until the next question. longest: seconds in a row.
    """

    def __init__(
        self, busy: Callable[[], bool], recheck: float = RECHECK_SECONDS, longest: float = OBJECTION_SECONDS
    ) -> None:
        self._busy = busy
        self._recheck = recheck
        self._longest = longest
        self._since: float | None = None

    def __call__(self) -> float:
        """Seconds for which the update must wait, 0 for none."""
        now = time.monotonic()
        if not self._busy():
            self._since = None
            return 0.0
        if self._since is None or now - self._since > self._longest + self._recheck * 2:
            self._since = now  # the first question about this update
        return self._recheck if now - self._since < self._longest else 0.0


class NucleusWatch:
    """Keeps one connection up, in a thread of its own.

    Args:
        configured: called in that thread with the component's configuration at each connection and after each change.
        objection: see ``Nucleus.on_update``; called in a thread of the SDK. fault: see ``Nucleus.on_validation``.
        connect: gives a nucleus, or None where there is none; takes what to call when the connection ends.
    """

    def __init__(
        self,
        *,
        configured: Callable[[Mapping[str, object]], None] | None = None,
        objection: Callable[[], float] | None = None,
        fault: Callable[[Mapping[str, object]], str] | None = None,
        connect: Callable[[Callable[[], None]], Nucleus | None] = greengrass.connect,
    ) -> None:
        self._configured = configured
        self._objection = objection
        self._fault = fault
        self._connect = connect
        self._news = threading.Event()
        self._lost = threading.Event()
        self._closing = threading.Event()
        self._seen: Mapping[str, object] | None = None
        self._backoff = Backoff(RETRY_SECONDS)
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="nucleus-watch", daemon=True)

    def start(self) -> None:
        """Connect, and go on; does nothing where the process is no Greengrass component."""
        if greengrass.has_nucleus() or self._connect is not greengrass.connect:
            self._thread.start()

    def close(self) -> None:
        """End the connection."""
        self._closing.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._lost.clear()
            try:
                nucleus = self._connect(self._on_lost)
                if nucleus is None:
                    return
                with nucleus:
                    self._attend(nucleus)
            except (HybridgeError, OSError) as error:
                if str(error) != self._said:
                    _log.warning("The connection to the nucleus: %s", error)
                self._said = str(error)
            self._closing.wait(self._backoff.wait())

    def _attend(self, nucleus: Nucleus) -> None:
        """Subscribe, then pass changes on until the connection ends."""
        if self._configured is not None:
            nucleus.on_configuration(self._news.set)
            self._news.set()  # what changed while nobody listened
        if self._objection is not None:
            _try(nucleus.on_update, self._objection)
        if self._fault is not None:
            _try(nucleus.on_validation, self._fault)
        self._backoff.succeeded()
        self._said = ""
        while not self._closing.is_set() and not self._lost.is_set():
            self._news.wait()
            self._news.clear()
            if self._configured is not None and not self._closing.is_set() and not self._lost.is_set():
                self._pass_on(nucleus.configuration(), self._configured)

    def _pass_on(self, configuration: Mapping[str, object], configured: Callable[[Mapping[str, object]], None]) -> None:
        if configuration == self._seen:
            return
        try:
            configured(configuration)
        except HybridgeError as error:
            _log.warning("The new configuration is not followed: %s", error)
        self._seen = configuration

    def _on_lost(self) -> None:
        self._lost.set()
        self._news.set()


def _try(subscribe: Callable[[_Asked], None], asked: _Asked) -> None:
    """Subscribe to what only some nuclei have."""
    try:
        subscribe(asked)
    except Unavailable:
        raise
    except Refused as error:
        _log.info("%s", error)
