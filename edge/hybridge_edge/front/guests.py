"""Who may come from the network and stay: the files in force, the handshakes under way, and what is said of both."""

from __future__ import annotations

import logging
import select
from dataclasses import replace
from pathlib import Path

from hybridge_edge.front.allowed import Peer
from hybridge_edge.front.handshakes import Handshakes
from hybridge_edge.front.rotation import Rotation
from hybridge_edge.front.tls_status import TlsStatus

_LOG = logging.getLogger(__name__)


class Guests:
    """One front's.

    Args:
        settings: path of the settings of TLS (see ``TlsSettings``). folder: the runtime folder, where the status goes.
    """

    def __init__(self, settings: Path, folder: Path) -> None:
        self._rotation = Rotation(settings)
        self._folder = folder
        self._handshakes: Handshakes | None = None
        self._told: TlsStatus | None = None
        self._failed = False
        self.cut = 0
        self.renewed = 0

    @property
    def look_s(self) -> float:
        return self._rotation.look_s

    @property
    def authorities(self) -> str:
        """A digest of those that new clients may come by."""
        current = self._rotation.current
        return current.authorities if current is not None else ""

    def handshakes(self, epoll: select.epoll) -> Handshakes:
        """Those of this front, on its epoll; asked for once. The files are looked at before the first one."""
        self._rotation.look(0.0)
        self._handshakes = Handshakes(epoll, self._rotation)
        self.tell(0)
        return self._handshakes

    def look(self, now: float) -> bool:
        """Whether other files are in force; looked at every ``look_s``, ``now`` in monotonic seconds."""
        return self._rotation.look(now)

    def refusal(self, peer: Peer) -> str:
        """Why somebody who was let in would not be now, "" where he would."""
        current = self._rotation.current
        return current.allowed.refusal(peer) if current is not None else ""

    def tell(self, connections: int) -> None:
        """Write the status, where anything in it has changed."""
        current, rotation = self._rotation.current, self._rotation
        status = TlsStatus(
            problem=rotation.problem,
            rotations=rotation.rotations,
            connections=connections,
            cut=self.cut,
            renewed=self.renewed,
            handshakes=dict(self._handshakes.results) if self._handshakes is not None else {},
        )
        if current is not None:
            status = replace(
                status,
                not_before=int(current.not_before),
                not_after=int(current.own.not_after),
                names=tuple(sorted(value for _, value in current.own.names)),
                fingerprint=current.own.fingerprint,
                clients=len(current.allowed.names),
                revoked=len(current.allowed.revoked),
            )
        if status == self._told:
            return
        try:
            status.write(self._folder)
        except OSError as error:
            if not self._failed:
                _LOG.warning("The status of TLS cannot be written: %s", error)
            self._failed = True
            return
        self._told, self._failed = status, False
