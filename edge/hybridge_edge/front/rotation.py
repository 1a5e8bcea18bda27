"""The files of mutual TLS, looked at every few seconds: what is new and whole is taken, what is broken is not."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.front import certificates
from hybridge_edge.front.certificates import Credentials, expiry
from hybridge_edge.front.tls_settings import LOOK_S, TlsSettings
from hybridge_edge.front.tls_status import WARN_S

_LOG = logging.getLogger(__name__)
FRESH_S = 5.0
"""So long after a change files are read at every look, whatever their times say: a clock ticks slower than a disk."""
READ_ANYWAY_S = 60.0
SAY_AGAIN_S = 24 * 3600.0
"""Between two warnings of the same certificate's end."""
_MAX_SETTINGS_BYTES = 64 * 1024


class Rotation:
    """What new connections are let in by.

    Args:
        path: of the settings, which are files like the others. clock: seconds since 1970.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: tuple[object, ...] = ()
        self._fresh_until = self._read_at = self._looked_at = 0.0
        self._tried = ""
        self._settings: TlsSettings | None = None
        self._warned: tuple[str, float] = ("", 0.0)
        self.current: Credentials | None = None
        self.problem = ""
        self._problem_at = 0.0
        self._said = ""
        self.rotations = 0

    @property
    def look_s(self) -> float:
        """Seconds between two looks."""
        return self._settings.look_s if self._settings is not None else LOOK_S

    def look(self, now: float) -> bool:
        """Whether other files are in force now than before; ``now`` in monotonic seconds."""
        if self._looked_at and now - self._looked_at < self.look_s:
            return False
        self._looked_at = now
        changed = self._reads(now) and self._read()
        self._say(now)
        self._warn()
        return changed

    def _reads(self, now: float) -> bool:
        stamps = tuple(_stamp(path) for path in self._paths())
        if stamps != self._stamps:
            self._stamps, self._fresh_until = stamps, now + FRESH_S
        if now > self._fresh_until and now - self._read_at < READ_ANYWAY_S:
            return False
        self._read_at = now
        return True

    def _paths(self) -> tuple[str, ...]:
        named = certificates.paths(self._settings) if self._settings is not None else ()
        return (str(self._path), *named)

    def _read(self) -> bool:
        try:
            if self._path.stat().st_size > _MAX_SETTINGS_BYTES:
                raise Refused(f"{self._path} is too large.")
            self._settings = settings = TlsSettings.from_json(self._path.read_bytes())
            contents = certificates.read(settings)
        except (HybridgeError, OSError) as error:
            self._tried = ""
            self._refuse(str(error))
            return False
        digest = hashlib.sha256(settings.to_json())
        for name in sorted(contents):
            digest.update(hashlib.sha256(contents[name]).digest())
        if digest.hexdigest() == self._tried:
            return False
        try:
            found = certificates.make(contents, settings)
            self._compare(found)
        except HybridgeError as error:
            self._tried = digest.hexdigest()
            self._refuse(str(error))
            return False
        except OSError as error:  # no file descriptor left, say: at the next look there may be one
            self._tried = ""
            self._refuse(f"The files of TLS cannot be tried: {error}.")
            return False
        self._tried = digest.hexdigest()
        if self.current is not None:
            self.rotations += 1
        self.current, self.problem, self._said = found, "", ""
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.own.not_after))
        _LOG.info(
            "TLS goes by the certificate of %s until %s UTC, %d names may come, %d entries are revoked.",
            found.own, until, len(found.allowed.names), len(found.allowed.revoked),
        )  # fmt: skip
        return True

    def _compare(self, found: Credentials) -> None:
        """Refuse a certificate that is past or not yet, in place of one that is valid.

        Where there is none, it is taken: whether it still counts is the client's to say, and a device's clock may be
        the one that is wrong.
        """
        now = time.time()
        if self.current is None or not self.current.valid_at(now) or found.valid_at(now):
            return
        if expiry(found, now) < 0:
            raise Refused("The certificate in tlsCertificate has expired.", "Put its successor in place.")
        raise Refused("The certificate in tlsCertificate is not valid yet.", "Put one in place that is.")

    def _refuse(self, problem: str) -> None:
        if problem != self.problem:
            self.problem, self._problem_at = problem, self._looked_at

    def _say(self, now: float) -> None:
        """Log what is wrong, once it is so at a second look: of two files that belong together one comes first."""
        if self.problem in ("", self._said) or (self.current is not None and now == self._problem_at):
            return
        self._said = self.problem
        kept = "the ones before stay in force" if self.current is not None else "nobody is let in from the network"
        _LOG.error("The files of TLS are not taken, %s: %s", kept, self.problem)

    def _warn(self) -> None:
        """Speak of a certificate's end in time, and once a day."""
        if self.current is None or (left := expiry(self.current)) >= WARN_S:
            return
        fingerprint, now = self.current.own.fingerprint, time.monotonic()
        if self._warned[0] == fingerprint and now - self._warned[1] < SAY_AGAIN_S:
            return
        self._warned = fingerprint, now
        if left < 0:
            _LOG.error("The server's certificate has expired: clients on the network will refuse it. Replace it.")
        else:
            _LOG.warning("The server's certificate expires in %.1f days. Replace it.", left / 86400)


def _stamp(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a link is followed, as in reading
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
