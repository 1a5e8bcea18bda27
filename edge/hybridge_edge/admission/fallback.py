"""What answers where the active package may not: the previous one, then good ones of history, then the factory's.

A device switches by itself at most MAX_SWITCHES times in SWITCH_SECONDS for one model. Beyond that the fault is hardly
the package's, and going on would wear through every package there is: nothing answers for the model then, health says
so, and when the time is over the next one in order is tried.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from hybridge_edge import failpoint
from hybridge_edge.admission.steps import Steps
from hybridge_edge.contract.errors import HybridgeError, Refused
from hybridge_edge.ledger import UNKNOWN_VERSION, Installed, ModelRecord, Verdict
from hybridge_edge.serving.residents import Resident

_LOG = logging.getLogger(__name__)
MAX_SWITCHES = 2
SWITCH_SECONDS = 3600
MAX_CRASHES = 3
"""Deaths of the worker while a digest loads, or runs without being trusted yet, after which it is quarantined."""
MAX_SHADOW_CRASHES = 1
"""The same of a shadow: nobody needs its answers, and each death costs those who ask the active version."""


class Fallback:
    """Over the steps; used by the activating thread alone. ``clock`` gives seconds of the wall clock."""

    def __init__(self, steps: Steps, clock: Callable[[], float] = time.time) -> None:
        self._steps = steps
        self._store = steps.store
        self._residents = steps.residents
        self._clock = clock

    def held_for(self, record: ModelRecord) -> float:
        """Seconds until the device may switch by itself again, 0 where it may now."""
        now = self._clock()
        # One that lies ahead is of a clock that was set back since: it says nothing.
        recent = sorted(at for at in record.switches if now - SWITCH_SECONDS < at <= now)
        return 0.0 if len(recent) < MAX_SWITCHES else max(1.0, recent[-MAX_SWITCHES] + SWITCH_SECONDS - now)

    def roll_back(self, model: str, reason: str) -> ModelRecord:
        """Quarantine what runs, because somebody asked, and put the next in order in its place.

        Raises:
            Refused: there is nothing to put there; what runs goes on.
        """
        record = self._store.record(model)
        if record.active is None:
            raise Refused(f"{model} has no previous package to put back.", "Deploy another version.")
        found = self._bring_up(record)
        if found is None:
            raise Refused(f"{model} has no previous package to put back.", "Deploy another version.")
        verdict = Verdict(record.active.digest, record.active.version, reason, record.epoch)
        return self._take_over(record, verdict, *found, at=None)

    def quarantine(self, model: str, digest: str, reason: str) -> ModelRecord:
        """Quarantine a package because of what it did, and put the next in order in its place, or nothing.

        A package that is quarantined already changes nothing; one that is not active is only barred.
        """
        record = self._store.record(model)
        if record.quarantine_of(digest) is not None:
            return record
        resident, standby = self._residents.active(model), self._residents.standby(model)
        shadow = self._residents.shadow(model)
        stood = shadow is not None and shadow.digest == digest
        version = shadow.manifest.version if shadow is not None and stood else _version(record, digest)
        verdict = Verdict(digest, version, reason, record.epoch)
        _LOG.error("%s %s is quarantined: %s", model, verdict.version, reason)
        active = record.active is not None and record.active.digest == digest
        if standby is not None and standby.digest == digest:
            self._residents.let_go(model)
        if not active:
            record = self._store.condemn(record, verdict)
            if resident is not None and resident.digest == digest:
                self._residents.unload(model)
                record = self.fill(record)
            return record
        held = self.held_for(record) > 0
        first = next(iter(record.fallbacks()), None)
        if not held and first is not None and standby is not None and standby.digest == first.digest:
            return self._take_over(record, verdict, first, standby, at=int(self._clock()))
        record = self._store.quarantine(record, verdict, None)
        failpoint.reach("fallback.condemned")
        return self.fill(record)

    def fill(self, record: ModelRecord) -> ModelRecord:
        """Where the ledger has nothing active and should: bring up the next in order, unless it is too soon."""
        model = record.model
        if record.active is not None or not record.should_answer:
            return record
        if seconds := self.held_for(record):
            _LOG.error("%s was switched %d times in an hour: nothing answers for %.0f s.", model, MAX_SWITCHES, seconds)
            self._residents.unload(model)
            return record
        found = self._bring_up(record)
        if found is None:
            _LOG.error("Nothing is left that could answer for %s.", model)
            self._residents.unload(model)
            return record
        successor, resident = found
        record = self._store.fall_back(record, successor, int(self._clock()))
        failpoint.reach("fallback.persisted")
        self._switch(resident)
        return record

    def from_factory(self, model: str) -> None:
        """A model that this device never ran begins with the factory's package."""
        found = self._bring_up(ModelRecord(model))
        if found is not None:
            self._store.fall_back(ModelRecord(model), found[0], None)
            failpoint.reach("fallback.persisted")
            self._switch(found[1])

    def meanwhile(self, record: ModelRecord) -> Resident | None:
        """The next in order, for the time that the active package cannot be loaded; the ledger stays as it is."""
        found = self._bring_up(record)
        if found is None:
            return None
        self._switch(found[1])
        return found[1]

    def _take_over(
        self, record: ModelRecord, verdict: Verdict, successor: Installed, resident: Resident, at: int | None
    ) -> ModelRecord:
        trusted = successor == record.previous
        record = self._store.quarantine(record, verdict, successor, trusted=trusted, at=at)
        failpoint.reach("fallback.persisted")
        self._switch(resident)
        return record

    def _switch(self, resident: Resident) -> None:
        self._residents.switch(resident, back=True)
        _LOG.warning("%s %s answers now.", resident.manifest.name, resident.manifest.version)
        failpoint.reach("fallback.switched")

    def _bring_up(self, record: ModelRecord) -> tuple[Installed, Resident] | None:
        """The first in order that is in memory or can be loaded."""
        standby = self._residents.standby(record.model)
        for candidate in self._candidates(record):
            if standby is not None and standby.digest == candidate.digest:
                return candidate, standby
            if self._store.crashes(candidate.digest) >= MAX_CRASHES:
                _LOG.error("%s %s is not loaded: the server died of it.", record.model, candidate.version)
                continue
            try:
                package = self._steps.open(candidate.digest)
                trusted = candidate == record.previous
                resident = self._steps.again(package, trusted=trusted, at="fallback.loading")
            except (HybridgeError, OSError) as error:
                _LOG.error("%s %s cannot be fallen back on: %s", record.model, candidate.version, error)
                continue
            failpoint.reach("fallback.loaded")
            return candidate, resident
        return None

    def _candidates(self, record: ModelRecord) -> Iterator[Installed]:
        seen = {record.active.digest} if record.active else set()
        for one in record.fallbacks():
            seen.add(one.digest)
            yield one
        try:
            package = self._steps.factory.packages(self._steps.trust()).get(record.model)
        except HybridgeError as error:
            _LOG.error("The factory's package of %s cannot be believed: %s", record.model, error)
            return
        if package is not None and package.digest not in seen and record.quarantine_of(package.digest) is None:
            yield Installed(package.digest, package.manifest.version)


def _version(record: ModelRecord, digest: str) -> str:
    known = (record.active, record.previous, *record.history)
    return next((one.version for one in known if one is not None and one.digest == digest), UNKNOWN_VERSION)
