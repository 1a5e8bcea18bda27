"""Brings a package from a folder to answering requests, one step after the other; the old model serves until the end.

    verify   signature, digest, name                  nothing has changed
    install  every byte copied and checked            nothing has changed
    load     sessions made, signatures compared       a mark names the digest: dying here counts against it
    golden   known inputs give known outputs
    probes   the new and the old model answer the package's probes, in turns
    persist  the ledger's switch                      a restart serves the new model
    switch   the pointer in memory                    requests meet the new model; the old one stays loaded

Back to the version before is a pointer switch: nothing is read, loaded or examined, one write to the disk.
One thread does all of it, so that hand-overs never overlap.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import BoundedSemaphore, Event

from hybridge_edge import failpoint
from hybridge_edge.admission.decision import Action, Decision, decide
from hybridge_edge.admission.golden import check_golden
from hybridge_edge.admission.probes import answer_probes
from hybridge_edge.contract.errors import (
    HybridgeError,
    InvalidDocument,
    ModelNotFound,
    Overloaded,
    PackageRefused,
    Refused,
    SpoolFull,
    Unavailable,
)
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Engine
from hybridge_edge.ledger import UNKNOWN_VERSION, Installed, ModelRecord, Verdict, Wanted
from hybridge_edge.package import Package, read_small
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store
from hybridge_edge.trust import open_package

_LOG = logging.getLogger(__name__)
ANSWER_WITHIN_S = 60.0
"""After this a hand-over is answered BUILDING and goes on."""
MAX_PENDING = 8
MAX_CRASHES = 3
"""Deaths of the worker while a digest loads, or runs without being trusted yet, after which it is quarantined."""


class Activation:
    """Obeys hand-overs.

    Args:
        trust: reads the trust file; called at each activation. load: makes an engine of a verified package.
        changed: called after every change of state, from the activating thread; must not block.
    """

    def __init__(
        self,
        store: Store,
        service: Service,
        trust: Callable[[], TrustDocument],
        load: Callable[[Package], Engine],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._gate = service.gate
        self._trust = trust
        self._load = load
        self._changed = changed
        self._residents = service.residents
        self._closing = Event()
        self._pending = BoundedSemaphore(MAX_PENDING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="activate")

    def close(self) -> None:
        """Let the step that runs end; drop what waits."""
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def restore(self) -> None:
        """Before listening: every model's last good package answers again, from the store alone."""
        for record in self._store.records().values():
            record = self._judge_trials(record)
            for installed in (record.active, record.previous):
                if installed is not None and self._restored(record, installed):
                    break

    def resume(self) -> None:
        """After listening: finish activations that a crash cut off, where their package is in the store, and load
        again the version before one that a rollout judges."""
        for record in self._store.records().values():
            wanted = record.wanted
            self._thread.submit(self._compare_again, record.model)
            if wanted is None or wanted.mode is not Mode.ACTIVATE:
                continue
            seen = record.quarantine_of(wanted.digest) or record.refusal_of(wanted.digest)
            resident = self._residents.active(record.model)
            if seen or (resident and resident.digest == wanted.digest) or not self._store.holds(wanted.digest):
                continue
            self._submit(
                self._obey, Handover(record.model, "", wanted.digest, wanted.rollout, wanted.epoch, wanted.mode)
            )

    def hand_over(self, handover: Handover, timeout_s: float = ANSWER_WITHIN_S) -> HandoverAnswer:
        """Obey, and answer when the state is final, or BUILDING after ``timeout_s`` seconds.

        Raises:
            Overloaded: MAX_PENDING hand-overs wait already.
        """
        try:
            return self._submit(self._obey, handover).result(timeout_s)
        except FutureTimeout:
            return self._answer(handover, PackageState.BUILDING, UNKNOWN_VERSION)

    def rollback(self, model: str, reason: str, timeout_s: float = ANSWER_WITHIN_S) -> HandoverAnswer:
        """Quarantine what runs and put the previous package back.

        Raises:
            Refused: there is none. Unavailable: it is not done after ``timeout_s`` seconds, and goes on.
        """
        try:
            return self._thread.submit(self._roll_back, model, reason).result(timeout_s)
        except FutureTimeout:
            raise Unavailable(f"The rollback of {model} is still under way.", "See hybridge-edge status.") from None

    def quarantine(self, model: str, digest: str, reason: str) -> None:
        """The digest misbehaved while it served: put the previous one back, where it is still what answers."""
        with suppress(RuntimeError):  # closed meanwhile
            self._thread.submit(self._quarantined, model, digest, reason)

    def _quarantined(self, model: str, digest: str, reason: str) -> None:
        record = self._store.record(model)
        try:
            if record.active is not None and record.active.digest == digest:
                self._roll_back(model, reason)
        except (HybridgeError, OSError) as error:
            _LOG.error("%s %s is not put back: %s", model, digest[:19], error)

    def load(self, model: str, timeout_s: float = ANSWER_WITHIN_S) -> None:
        """An unloaded model's active package answers again. Raises ModelNotFound, PackageRefused or Unavailable."""
        try:
            self._thread.submit(self._load_again, model).result(timeout_s)
        except FutureTimeout:
            raise Unavailable(f"{model} is still being loaded.", "See hybridge-edge status.") from None

    def proven(self, model: str, digest: str) -> None:
        """The digest has answered often enough to be trusted (see service.TRIAL_RUNS)."""
        with suppress(RuntimeError):  # closed meanwhile: the trial goes on after the next start
            self._thread.submit(self._believe, model, digest)

    def _believe(self, model: str, digest: str) -> None:
        try:
            self._store.trust(model, digest)
        except (HybridgeError, OSError) as error:
            _LOG.error("That %s has passed its first runs is not remembered: %s", model, error)

    def _submit(self, work: Callable[[Handover], HandoverAnswer], handover: Handover) -> Future[HandoverAnswer]:
        if not self._pending.acquire(blocking=False):
            raise Overloaded(f"{MAX_PENDING} hand-overs wait already.", "Try again in a minute.")
        future = self._thread.submit(work, handover)
        future.add_done_callback(lambda _: self._pending.release())
        return future

    def _obey(self, handover: Handover) -> HandoverAnswer:
        record = self._store.record(handover.model)
        resident = self._residents.active(handover.model)
        decision = decide(record, handover, resident is not None and resident.digest == handover.digest)
        _LOG.info("hand-over of %s %s: %s", handover.model, handover.digest[:19], decision.action.value)
        if decision.action in (Action.SUPERSEDED, Action.QUARANTINED):
            return self._decline(record, handover, decision)
        wanted = Wanted.of(handover)
        try:
            standby = self._residents.standby(handover.model)
            loaded = standby is not None and standby.digest == handover.digest and self._store.holds(handover.digest)
            if standby is not None and loaded and decision.action is Action.ACTIVATE:
                return self._switch_back(replace(record, wanted=wanted), handover, standby)
            if record.wanted is None or handover.epoch > record.wanted.epoch:
                record = self._store.want(record, wanted)
                if resident is not None:
                    resident.heard = time.monotonic()
            if decision.action is Action.ALREADY:
                if handover.mode is Mode.RETIRE:
                    return self._answer(handover, PackageState.RETIRED, UNKNOWN_VERSION)
                assert resident is not None
                return self._answer(handover, PackageState.ACTIVE, resident.manifest.version)
            return self._act(record, handover, decision)
        except HybridgeError as error:
            step = f"{error.step}: " if isinstance(error, PackageRefused) else ""
            return self._refuse(handover, step + error.message)
        except Exception as error:
            _LOG.exception("The activation of %s failed", handover.model)
            return self._refuse(handover, f"The activation failed: {type(error).__name__}: {error}")
        finally:
            self._changed()

    def _act(self, record: ModelRecord, handover: Handover, decision: Decision) -> HandoverAnswer:
        if decision.action is Action.RETIRE:
            self._store.retire(record)
            self._residents.unload(handover.model)
            self._store.collect_garbage()
            return self._answer(handover, PackageState.RETIRED, UNKNOWN_VERSION)
        package = self._installed(handover)
        version = package.manifest.version
        failpoint.reach("activation.installed")
        if decision.action is Action.STAGE:
            return self._answer(handover, PackageState.STAGED, version)
        installed = Installed(package.digest, version)
        back = record.previous == installed
        fresh = self._proven_resident(package, trusted=False, at="activation.loading")
        try:
            paired = Paired() if back else self._probed(package, fresh)
            failpoint.reach("activation.proven")
            self._store.activate(record, installed)
        except BaseException:
            fresh.engine.close()
            raise
        failpoint.reach("activation.persisted")
        self._residents.switch(fresh, back=back, paired=paired)
        failpoint.reach("activation.switched")
        self._store.collect_garbage()
        return self._answer(handover, PackageState.ACTIVE, version)

    def _switch_back(self, record: ModelRecord, handover: Handover, standby: Resident) -> HandoverAnswer:
        """The version before, which is loaded still, answers again: one write, one pointer."""
        version = standby.manifest.version
        self._store.activate(record, Installed(standby.digest, version), trusted=standby.trusted)
        failpoint.reach("activation.persisted")
        self._residents.switch(standby, back=True)
        failpoint.reach("activation.switched")
        self._store.collect_garbage()
        return self._answer(handover, PackageState.ACTIVE, version)

    def _probed(self, package: Package, fresh: Resident) -> Paired:
        """The probes' answers of the new version and of the one that answers now."""
        before = self._residents.active(fresh.manifest.name)
        if before is None or before.digest == fresh.digest:
            return Paired()
        return answer_probes(package, fresh, before, self._gate, self._closing.is_set)

    def _compare_again(self, model: str) -> None:
        """After a restart: what a rollout's device measured went with the memory, so measure it again."""
        record, resident = self._store.record(model), self._residents.active(model)
        previous, wanted = record.previous, record.wanted
        if resident is None or previous is None or wanted is None or not wanted.judged:
            return
        if resident.digest != wanted.digest or self._residents.standby(model) is not None:
            return
        try:
            trust = self._trust()
            before = self._proven_resident(self._store.open(previous.digest, trust), trusted=True, at="compare.loading")
            try:
                package = self._store.open(resident.digest, trust)
                paired = answer_probes(package, resident, before, self._gate, self._closing.is_set)
            except BaseException:
                before.engine.close()
                raise
            self._residents.stand_by(before, paired)
        except Exception as error:  # the thread goes on; a rollout that lacks evidence holds
            _LOG.error("%s %s cannot be compared with again: %s", model, previous.version, error)
        self._changed()

    def _installed(self, handover: Handover) -> Package:
        """The package asked for, out of the store, installed from the hand-over's folder where it is not there."""
        trust = self._trust()
        if self._store.holds(handover.digest):
            try:
                package = self._store.open(handover.digest, trust)
                package.verify_files()
                return _of_model(package, handover.model)
            except PackageRefused as error:
                _LOG.warning("The store's copy is of no use: %s", error)
        source = open_package(Path(handover.package), trust)
        if source.digest != handover.digest:
            raise PackageRefused(
                f"The folder holds package {source.digest[:19]}, not {handover.digest[:19]}.",
                "Publish the model's component again.",
            )
        failpoint.reach("activation.verified")
        return self._store.install(_of_model(source, handover.model), trust)

    def _proven_resident(self, package: Package, *, trusted: bool, at: str) -> Resident:
        """Load and examine it, marked meanwhile as the one to blame; ``at`` names the failpoint."""
        trial = self._store.trial(package.digest)
        with trial:
            failpoint.reach(at)
            engine = self._load(package)
            try:
                check_golden(package, engine)
            except BaseException:
                engine.close()
                raise
        if trusted:
            trial.trust()
        return Resident(package.manifest, package.digest, engine, trial)

    def _roll_back(self, model: str, reason: str) -> HandoverAnswer:
        record = self._store.record(model)
        if record.active is None or record.previous is None:
            raise Refused(f"{model} has no previous package to put back.", "Deploy another version.")
        bad, good = record.active, record.previous
        standby = self._residents.standby(model)
        if standby is None or standby.digest != good.digest:
            package = self._store.open(good.digest, self._trust())
            standby = self._proven_resident(package, trusted=True, at="rollback.loading")
        self._store.quarantine(record, Verdict(bad.digest, bad.version, reason, record.epoch))
        self._residents.switch(standby, back=True)
        self._changed()
        return HandoverAnswer(PackageState.ACTIVE, model, good.version, good.digest, record.epoch, reason, True)

    def _judge_trials(self, record: ModelRecord) -> ModelRecord:
        """Quarantine a digest that the worker died of MAX_CRASHES times."""
        suspects = {item.digest: item.version for item in (record.active,) if item is not None}
        if record.wanted is not None and record.wanted.digest not in suspects:
            suspects[record.wanted.digest] = self._version_of(record.wanted.digest)
        for digest, version in suspects.items():
            if self._store.crashes(digest) >= MAX_CRASHES:
                reason = f"The server died {MAX_CRASHES} times loading or first running {record.model} {version}."
                _LOG.error("%s It is quarantined.", reason)
                record = self._store.quarantine(record, Verdict(digest, version, reason, record.epoch))
        return record

    def _version_of(self, digest: str) -> str:
        try:
            return self._store.open(digest, self._trust()).manifest.version
        except HybridgeError:
            return UNKNOWN_VERSION

    def _restored(self, record: ModelRecord, installed: Installed) -> bool:
        """Whether it answers again. Where not, the ledger stays: its component's next hand-over repairs it."""
        try:
            package = self._store.open(installed.digest, self._trust())
            trusted = record.trusted and installed == record.active
            fresh = self._proven_resident(package, trusted=trusted, at="restore.loading")
        except HybridgeError as error:
            _LOG.error("%s %s cannot be restored: %s", record.model, installed.version, error)
            return False
        self._residents.switch(fresh)
        return True

    def _load_again(self, model: str) -> None:
        record = self._store.record(model)
        if record.active is None:
            raise ModelNotFound(f"No package of {model[:64]!r} is active on this device.", "Deploy one.")
        if self._residents.active(model) is None and not self._restored(record, record.active):
            raise PackageRefused(f"{model} cannot be loaded again.", "The server's log says why.", step="load")
        self._changed()

    def _decline(self, record: ModelRecord, handover: Handover, decision: Decision) -> HandoverAnswer:
        quarantined = decision.action is Action.QUARANTINED
        verdict = record.quarantine_of(handover.digest)
        version = verdict.version if quarantined and verdict else UNKNOWN_VERSION
        state = PackageState.QUARANTINED if quarantined else PackageState.REFUSED
        return self._answer(handover, state, version, decision.reason, seen_before=True)

    def _refuse(self, handover: Handover, reason: str) -> HandoverAnswer:
        _LOG.error("%s %s is refused: %s", handover.model, handover.digest[:19], reason)
        record = self._store.record(handover.model)
        seen = record.refusal_of(handover.digest) is not None
        seen = seen or any(item.digest == handover.digest for item in record.history)
        version = _claimed_version(Path(handover.package))
        try:
            self._store.refuse(record, Verdict(handover.digest, version, reason, handover.epoch))
        except SpoolFull as error:
            _LOG.error("The refusal is not remembered: %s", error)
        return self._answer(handover, PackageState.REFUSED, version, reason, seen)

    def _answer(
        self, handover: Handover, state: PackageState, version: str, reason: str = "", seen_before: bool = False
    ) -> HandoverAnswer:
        return HandoverAnswer(state, handover.model, version, handover.digest, handover.epoch, reason, seen_before)


def _of_model(package: Package, model: str) -> Package:
    if package.manifest.name != model:
        raise PackageRefused(
            f"The package is of model {package.manifest.name!r}, not {model!r}.", "Publish the model's component again."
        )
    return package


def _claimed_version(folder: Path) -> str:
    """The version a refused package says it has, for people to read; believed for nothing."""
    try:
        return Manifest.from_bytes(read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)).version
    except (PackageRefused, InvalidDocument):
        return UNKNOWN_VERSION
