"""From the disk to answering, before a server listens; and after it listens, what a crash cut off.

A restart reads the store alone: no component, no network, no child process for what was trusted.
"""

from __future__ import annotations

import logging

from hybridge_edge.admission.decision import TRIAL
from hybridge_edge.admission.fallback import MAX_CRASHES, MAX_SHADOW_CRASHES, Fallback
from hybridge_edge.admission.plan import fits
from hybridge_edge.admission.steps import Steps
from hybridge_edge.contract.errors import HybridgeError, ModelNotFound, PackageRefused
from hybridge_edge.ledger import UNKNOWN_VERSION, Installed, ModelRecord, Verdict

_LOG = logging.getLogger(__name__)


class Restore:
    """Over the steps; used before the activating thread has work, or by it."""

    def __init__(self, steps: Steps, fallback: Fallback) -> None:
        self._steps = steps
        self._store = steps.store
        self._residents = steps.residents
        self._fallback = fallback

    def all(self) -> None:
        """Every model's active package answers again, or what is next in order; leftovers of a crash go."""
        records = self._store.records()
        for record in records.values():
            self._model(self._judged(record))
        for model in self._factory_models():
            if model not in records:
                self._fallback.from_factory(model)
        if records:  # a ledger that was lost names no package, and that is no reason to remove them all
            self._store.collect_garbage()

    def load_again(self, model: str) -> None:
        """The active package after an unload. Raises ModelNotFound, PackageRefused."""
        record = self._store.record(model)
        if record.active is None:
            raise ModelNotFound(f"No package of {model[:64]!r} is active on this device.", "Deploy one.")
        if self._residents.active(model) is None:
            package = self._steps.open(record.active.digest)
            self._residents.switch(self._steps.again(package, trusted=record.trusted, at="restore.loading"))

    def compare_again(self, model: str) -> None:
        """What a rollout's device measured went with the memory, so load the version before and measure it again."""
        record, resident = self._store.record(model), self._residents.active(model)
        previous, wanted = record.previous, record.wanted
        if resident is None or previous is None or wanted is None or not wanted.judged:
            return
        if resident.digest != wanted.digest or self._residents.standby(model) is not None:
            return
        try:
            package = self._steps.open(previous.digest)
            needed = self._steps.megabytes(package.manifest, previous.digest)
            if not fits(needed, self._steps.held(), self._steps.memory_limit):
                _LOG.warning("%s %s stays on disk: there is no memory for both.", model, previous.version)
                return
            before = self._steps.loaded(package, trusted=True, at="compare.loading")
            try:
                paired = self._steps.probed(self._steps.open(resident.digest), resident, before)
            except BaseException:
                before.engine.close()
                raise
            self._residents.stand_by(before, paired)
        except Exception as error:  # the thread goes on; a rollout that lacks evidence holds
            _LOG.error("%s %s cannot be compared with again: %s", model, previous.version, error)

    def _model(self, record: ModelRecord) -> None:
        active = record.active
        if active is None:
            self._fallback.fill(record)
            return
        refusal = record.refusal_of(active.digest)
        if refusal is not None and refusal.step == TRIAL:
            _LOG.error("%s %s is not loaded: %s", record.model, active.version, refusal.reason)
        elif self._restored(record, active):
            return
        self._fallback.meanwhile(self._store.record(record.model))

    def _restored(self, record: ModelRecord, active: Installed) -> bool:
        """Whether it answers again. Where not, the ledger stays: its component's next hand-over repairs it."""
        try:
            package = self._steps.open(active.digest)
            fresh = self._steps.again(package, trusted=record.trusted, at="restore.loading")
        except HybridgeError as error:
            _LOG.error("%s %s cannot be restored: %s", record.model, active.version, error)
            if isinstance(error, PackageRefused) and error.step == TRIAL:
                verdict = Verdict(active.digest, active.version, error.message, record.epoch, TRIAL)
                self._store.refuse(record, verdict)
            elif self._store.holds(active.digest) and not self._store.intact(active.digest):
                _LOG.error("Its copy in the store is damaged, and removed.")
                self._store.discard(active.digest)
            return False
        self._residents.switch(fresh)
        return True

    def _judged(self, record: ModelRecord) -> ModelRecord:
        """Quarantine what the worker died of MAX_CRASHES times, as a shadow MAX_SHADOW_CRASHES times."""
        suspects = {one.digest: one.version for one in (*record.fallbacks(), record.active) if one is not None}
        if record.wanted is not None and record.wanted.digest not in suspects:
            suspects[record.wanted.digest] = ""
        for digest, version in suspects.items():
            most = MAX_SHADOW_CRASHES if digest == record.shadow else MAX_CRASHES
            if (died := self._store.crashes(digest)) < most:
                continue
            version = version or self._version_of(digest)
            times = f"{died} times" if most > 1 else "once"
            reason = f"The server died {times} loading or first running {record.model} {version}."
            _LOG.error("%s It is quarantined.", reason)
            verdict = Verdict(digest, version, reason, record.epoch)
            if record.active is not None and record.active.digest == digest:
                record = self._store.quarantine(record, verdict, None)
            else:
                record = self._store.condemn(record, verdict)
        return record

    def _version_of(self, digest: str) -> str:
        try:
            return self._steps.open(digest).manifest.version
        except HybridgeError:
            return UNKNOWN_VERSION

    def _factory_models(self) -> tuple[str, ...]:
        try:
            return tuple(self._steps.factory.packages(self._steps.trust()))
        except HybridgeError as error:
            _LOG.error("The factory's packages cannot be believed: %s", error)
            return ()
