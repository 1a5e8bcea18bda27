"""Models in memory: one that answers a name, the version before, kept loaded until the next activation, and a shadow.

A shadow stands beside the version that answers and is run on the same inputs (see ``shadow``). No request ever leases
it: it answers under no version until an activation makes it the active one.

A request takes a lease, so that a switch never waits for requests and no request ever sees two models: an engine that
is no longer kept is closed when its last lease ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType

from hybridge_edge.contract.errors import ModelNotFound
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.engine import Engine
from hybridge_edge.serving.batching import Batching
from hybridge_edge.serving.evidence import Paired, Tally
from hybridge_edge.serving.guards import Constancy
from hybridge_edge.serving.shadow_tally import ShadowTally
from hybridge_edge.serving.signature import Signature
from hybridge_edge.trials import Trial, unmarked

TRIAL_RUNS = 20
"""Answers after which a new digest is trusted: a crash from then on is not laid at its door alone."""


class Resident:
    """A model in memory.

    Attributes:
        batching: how many rows a run takes. trial: marks its runs. tally: counts since it answers.
        overruns, failures: runs in a row that the watchdog ended, and that an accelerator did not do.
        against: digest of the version it took over from, "" for none. paired: what the probes said of the two.
        put_back: it answers again after another version did. since: when it began to answer, monotonic seconds.
        heard: when a hand-over last asked for it anew, monotonic seconds. shadow_tally: counts of a shadow, else None.
    """

    def __init__(self, manifest: Manifest, digest: str, engine: Engine, trial: Trial | None = None) -> None:
        self.manifest = manifest
        self.digest = digest
        self.engine = engine
        self.signature = Signature(manifest)
        self.trial = trial or unmarked()
        self.batching = Batching(manifest.max_batch if self.signature.batched else 1)
        self.constancy = Constancy(manifest.guards)
        self.overruns = self.failures = 0
        self.leases = 0
        self.retired = False
        self.answers = 0
        self.shadow_tally: ShadowTally | None = None
        self.begin("", put_back=False)

    def begin(self, against: str, *, put_back: bool, paired: Paired | None = None) -> None:
        """It answers from now on."""
        self.shadow_tally = None
        self.tally = Tally()
        self.against = against
        self.put_back = put_back
        self.paired = paired or Paired()
        self.since = self.heard = time.monotonic()

    @property
    def trusted(self) -> bool:
        return self.trial.trusted

    def count(self) -> bool:
        """One answer more; whether it was the last of the trial. The caller holds a lock."""
        self.answers += 1
        ended = self.answers == TRIAL_RUNS and not self.trusted
        if ended:
            self.trial.trust()
        return ended


class Lease:
    """A resident that is not closed while somebody is inside ``with lease as resident:``; entered once, at once."""

    __slots__ = ("_release", "_resident")

    def __init__(self, resident: Resident, release: Callable[[Resident], None]) -> None:
        self._resident = resident
        self._release = release

    def __enter__(self) -> Resident:
        return self._resident

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(self._resident)


class Residents:
    """The table of them; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._active: dict[str, Resident] = {}
        self._standby: dict[str, Resident] = {}
        self._shadows: dict[str, Resident] = {}

    def active(self, model: str) -> Resident | None:
        """The model that answers now, for looking at; requests take a lease instead."""
        with self._lock:
            return self._active.get(model)

    def standby(self, model: str) -> Resident | None:
        """The version before, where it is still loaded."""
        with self._lock:
            return self._standby.get(model)

    def shadow(self, model: str) -> Resident | None:
        """What stands beside the active version and answers nobody. Takes no lock: requests ask."""
        return self._shadows.get(model)

    def shadows(self) -> tuple[Resident, ...]:
        """Every shadow, by model."""
        with self._lock:
            return tuple(self._shadows[name] for name in sorted(self._shadows))

    def stand_beside(self, resident: Resident) -> None:
        """Keep ``resident`` as its model's shadow; the version before may become it, and a shadow there was goes."""
        name = resident.manifest.name
        with self._lock:
            active = self._active.get(name)
            if self._standby.get(name) is resident:
                del self._standby[name]
                if active is not None:
                    active.against = ""
            doomed = self._shadows.get(name)
            self._shadows[name] = resident
        if doomed is not None and doomed is not resident:
            self._retire(doomed)

    def end_shadow(self, model: str) -> None:
        """Nothing stands beside the active version any more."""
        with self._lock:
            shadow = self._shadows.pop(model, None)
        if shadow is not None:
            self._retire(shadow)

    @contextmanager
    def lease_pair(self, first: Resident) -> Iterator[Resident | None]:
        """Hold ``first`` and the shadow beside it, or None where it answers no more or nothing stands beside it."""
        name = first.manifest.name
        with self._lock:
            shadow = self._shadows.get(name) if self._active.get(name) is first else None
            if shadow is not None:
                first.leases += 1
                shadow.leases += 1
        try:
            yield shadow
        finally:
            if shadow is not None:
                self._release(shadow)
                self._release(first)

    def names(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._active)

    def versions(self, model: str) -> tuple[str, ...]:
        """Versions that a request may name, the active one first."""
        with self._lock:
            found = (self._active.get(model), self._standby.get(model))
            return tuple(dict.fromkeys(one.manifest.version for one in found if one is not None))

    def switch(self, resident: Resident, *, back: bool = False, paired: Paired | None = None) -> None:
        """From the next request on, ``resident`` answers for its model.

        The one before stays loaded as its standby and an older standby goes; with ``back`` the one before is what is
        left behind, and goes.
        """
        name = resident.manifest.name
        with self._lock:
            before, standby = self._active.get(name), self._standby.pop(name, None)
            if self._shadows.get(name) is resident:
                del self._shadows[name]
            keep = before is not None and before is not resident and not back
            resident.begin(before.digest if keep and before else "", put_back=back, paired=paired)
            self._active[name] = resident
            if keep and before is not None:
                self._standby[name] = before
                before.against = ""  # nothing is compared with what it took over from any more
            doomed = {one for one in (standby, None if keep else before) if one is not None and one is not resident}
        for one in doomed:
            self._retire(one)

    def replace(self, old: Resident, fresh: Resident) -> bool:
        """``fresh``, the same package in another engine, takes over from ``old`` with its counts, if that is active.

        Returns whether it did; where not, ``fresh`` is closed.
        """
        name = old.manifest.name
        fresh.tally, fresh.against, fresh.paired = old.tally, old.against, old.paired
        fresh.put_back, fresh.since, fresh.heard, fresh.answers = old.put_back, old.since, old.heard, old.answers
        with self._lock:
            did = self._active.get(name) is old
            if did:
                self._active[name] = fresh
        self._retire(old if did else fresh)
        return did

    def stand_by(self, resident: Resident, paired: Paired) -> None:
        """Keep ``resident``, loaded again after a restart, as the version before the active one."""
        name = resident.manifest.name
        with self._lock:
            active = self._active.get(name)
            kept = active is not None and name not in self._standby
            if active is not None and kept:
                self._standby[name] = resident
                active.against, active.paired = resident.digest, paired
        if not kept:
            self._retire(resident)

    def let_go(self, model: str) -> None:
        """The version before is no longer kept in memory."""
        with self._lock:
            standby = self._standby.pop(model, None)
        if standby is not None:
            self._retire(standby)

    def loaded(self) -> tuple[Resident, ...]:
        """Every model in memory: each active one, its standby, its shadow."""
        with self._lock:
            every = (
                (active, self._standby.get(name), self._shadows.get(name)) for name, active in self._active.items()
            )
            return tuple(one for those in every for one in those if one is not None)

    def unload(self, model: str) -> None:
        """The model answers no more, in no version."""
        with self._lock:
            doomed = tuple(table.pop(model, None) for table in (self._active, self._standby, self._shadows))
        for one in doomed:
            if one is not None:
                self._retire(one)

    def find(self, model: str, version: str) -> Resident:
        """The resident model of that name and version ("" is the active one), or ModelNotFound."""
        with self._lock:
            return self._find(model, version)

    def lease(self, model: str, version: str) -> Lease:
        """Hold the resident model of that name and version ("" is the active one). Raises ModelNotFound."""
        with self._lock:
            resident = self._find(model, version)
            resident.leases += 1
        return Lease(resident, self._release)

    def lease_digest(self, model: str, digest: str) -> Lease | None:
        """Hold the resident model of that digest, active or the version before; None where it is neither."""
        with self._lock:
            for resident in (self._active.get(model), self._standby.get(model)):
                if resident is not None and resident.digest == digest:
                    resident.leases += 1
                    return Lease(resident, self._release)
        return None

    @contextmanager
    def lease_standby(self, model: str, digest: str) -> Iterator[Resident | None]:
        """Hold the version before if it is that digest, or None."""
        with self._lock:
            resident = self._standby.get(model)
            if resident is not None and resident.digest != digest:
                resident = None
            if resident is not None:
                resident.leases += 1
        try:
            yield resident
        finally:
            if resident is not None:
                self._release(resident)

    def _release(self, resident: Resident) -> None:
        with self._lock:
            resident.leases -= 1
            close = resident.retired and resident.leases == 0
        if close:
            resident.engine.close()

    def _retire(self, resident: Resident) -> None:
        with self._lock:
            resident.retired = True
            close = resident.leases == 0
        if close:
            resident.engine.close()

    def _find(self, model: str, version: str) -> Resident:
        resident, standby = self._active.get(model), self._standby.get(model)
        if resident is None:
            known = ", ".join(sorted(self._active)) or "none"
            raise ModelNotFound(f"No model {model[:64]!r} is active here.", f"Active models: {known}.")
        if version in ("", resident.manifest.version):
            return resident
        if standby is not None and version == standby.manifest.version:
            return standby
        raise ModelNotFound(
            f"Version {version[:40]!r} of {model} is not resident.",
            f"Leave the version empty, or ask for {resident.manifest.version}.",
        )
