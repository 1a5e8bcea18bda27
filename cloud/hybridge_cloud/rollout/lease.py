"""Who may write a ring's next deployment: ``leases/GROUP.json``, and which deployment Hybridge wrote there last.

Greengrass replaces a target's whole component list without a condition, so two writers at once would lose one change.
Every writer of ours holds the ring's lease while it reads, changes and writes. A holder that dies is waited for until
its lease expires. A holder that slept past its expiry finds that out before it writes; should it be stopped in the very
call, the loser's wave is not in the ring's latest deployment any more, and its rollout stops as FOREIGN_REVISION.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hybridge_cloud.aws.greengrass import Deployment
from hybridge_cloud.aws.s3 import Bucket, ObjectMissing
from hybridge_edge.contract import names
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Conflict, Refused

FORMAT = 1
LEASE_SECONDS = 120.0
"""How long a holder has for one write; a dead one keeps others waiting at most this long."""
MARGIN_SECONDS = 20.0
"""What must be left of a lease for a call that changes the ring."""
WAIT_SECONDS = 5.0
"""How long to wait for another holder before saying so; who waits in a loop comes again."""
POLL_SECONDS = 0.1

Clock = Callable[[], int]
"""Unix time in milliseconds."""


def wall_clock() -> int:
    return time.time_ns() // 1_000_000


def holder_name() -> str:
    """A name for this process that no other ever has."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


class LeaseHeld(Refused):
    """Another writer holds the lease, or took it over. ``group`` and ``holder`` name both."""

    code = "LEASE_HELD"

    def __init__(self, group: str, holder: str, until_ms: int) -> None:
        super().__init__(
            f"{holder or 'Another command'} is writing a deployment of {group}, for at most "
            f"{max(0, until_ms - wall_clock()) / 1000:.0f} s more.",
            "Try again then.",
        )
        self.group, self.holder = group, holder


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What is stored. ``deployment``: the last one ours, "" while unknown. ``writing``: the name of one begun."""

    group: str
    holder: str = ""
    expires_at_ms: int = 0
    deployment: str = ""
    writing: str = ""

    def wrote(self, latest: Deployment) -> bool:
        """Whether a ring's latest deployment is one of ours: written last, or begun by a holder that died then.

        A ring that no lease of ours ever saw counts as ours: what was there before is where we start from.
        """
        if not self.deployment and not self.writing:
            return True
        return latest.id == self.deployment or (bool(self.writing) and latest.name == self.writing)

    def to_bytes(self) -> bytes:
        return canonical(
            {
                "format": FORMAT,
                "group": self.group,
                "holder": self.holder,
                "expires_at_ms": self.expires_at_ms,
                "deployment": self.deployment,
                "writing": self.writing,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> LeaseRecord:
        reader = parse(data, "lease")
        reader.format(FORMAT)
        record = cls(
            reader.text("group"),
            reader.text("holder"),
            reader.integer("expires_at_ms"),
            reader.text("deployment"),
            reader.text("writing"),
        )
        reader.close()
        return record


class Lease:
    """A lease that is held."""

    __slots__ = ("_bucket", "_clock", "_etag", "record")

    def __init__(self, bucket: Bucket, record: LeaseRecord, etag: str, clock: Clock) -> None:
        self._bucket, self._etag, self._clock = bucket, etag, clock
        self.record = record

    def intend(self, name: str, after: str) -> None:
        """Say, before a deployment is created, what its name will be, and after which of ours it comes ("": none)."""
        self._check()
        self._store(replace(self.record, deployment=after, writing=name))

    def accept(self, deployment: str) -> None:
        """Say which deployment is the latest that is ours."""
        self._store(replace(self.record, deployment=deployment, writing=""))

    def _check(self) -> None:
        if self._clock() > self.record.expires_at_ms - MARGIN_SECONDS * 1000:
            raise LeaseHeld(self.record.group, self.record.holder, self.record.expires_at_ms)

    def _store(self, record: LeaseRecord) -> None:
        try:
            self._etag = self._bucket.put(names.lease_key(record.group), record.to_bytes(), if_match=self._etag)
        except Conflict:
            taken, _ = _read(self._bucket, record.group)
            raise LeaseHeld(taken.group, taken.holder, taken.expires_at_ms) from None
        self.record = record

    def release(self) -> None:
        """Let the next one in. A lease that was taken over is another's, and stays."""
        try:
            self._store(replace(self.record, holder="", expires_at_ms=0))
        except LeaseHeld:
            pass


def read(bucket: Bucket, group: str) -> LeaseRecord:
    """What is known of a ring's lease; an empty record where no command of ours ever wrote there."""
    return _read(bucket, group)[0]


@contextmanager
def held(
    bucket: Bucket, group: str, holder: str, *, clock: Clock = wall_clock, wait_seconds: float = WAIT_SECONDS
) -> Iterator[Lease]:
    """Hold a ring's lease for the length of a ``with``.

    Raises:
        LeaseHeld: another holder has it still after ``wait_seconds``.
    """
    lease = _acquire(bucket, group, holder, clock, wait_seconds)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(bucket: Bucket, group: str, holder: str, clock: Clock, wait_seconds: float) -> Lease:
    deadline = time.monotonic() + wait_seconds
    while True:
        found, etag = _read(bucket, group)
        now = clock()
        if not found.holder or found.expires_at_ms <= now:
            mine = replace(found, holder=holder, expires_at_ms=now + int(LEASE_SECONDS * 1000))
            try:
                if etag:
                    etag = bucket.put(names.lease_key(group), mine.to_bytes(), if_match=etag)
                else:
                    etag = bucket.put(names.lease_key(group), mine.to_bytes(), only_if_absent=True)
                return Lease(bucket, mine, etag, clock)
            except Conflict:
                found, _ = _read(bucket, group)
        if time.monotonic() >= deadline:
            raise LeaseHeld(group, found.holder, found.expires_at_ms)
        time.sleep(POLL_SECONDS)


def _read(bucket: Bucket, group: str) -> tuple[LeaseRecord, str]:
    try:
        data, etag = bucket.get_with_etag(names.lease_key(group))
    except ObjectMissing:
        return LeaseRecord(group), ""
    return LeaseRecord.from_bytes(data), etag
