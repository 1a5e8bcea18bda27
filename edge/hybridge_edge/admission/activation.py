"""Obeys hand-overs: brings a package from a folder to answering requests; the old model serves until the end.

    verify .. probes   see ``steps``                     a failure names its step, and the old model goes on
    persist            the ledger's switch               a restart serves the new model
    switch             the pointer in memory             requests meet the new model; what was planned stays loaded
    report

Back to the version before is a pointer switch where it is resident: nothing is read, loaded or examined, one write to
the disk. One thread does all of it, so that hand-overs never overlap; each step is durable before the next one begins,
so that after kill -9 at any of them the next start goes on (see ``restore``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Timer

from hybridge_edge import failpoint
from hybridge_edge.admission.answers import answer, claimed_version, decline, standing
from hybridge_edge.admission.decision import Action, Decision, decide
from hybridge_edge.admission.factory import Factory
from hybridge_edge.admission.fallback import Fallback
from hybridge_edge.admission.passed import Measured
from hybridge_edge.admission.plan import Plan, Previous
from hybridge_edge.admission.restore import Restore
from hybridge_edge.admission.shadows import Shadows
from hybridge_edge.admission.steps import Steps, Trial
from hybridge_edge.admission.trial import try_in_child
from hybridge_edge.admission.turns import Turns
from hybridge_edge.contract.errors import (
    HybridgeError,
    ModelNotFound,
    PackageRefused,
    SpoolFull,
    Unavailable,
)
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Choice, Engine, choose
from hybridge_edge.ledger import UNKNOWN_VERSION, Installed, ModelRecord, Verdict, Wanted
from hybridge_edge.package import Package
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store

_LOG = logging.getLogger(__name__)
ANSWER_WITHIN_S = 60.0
"""After this a hand-over is answered BUILDING and goes on."""


class Activation:
    """Obeys hand-overs.

    Args:
        trust: reads the trust file; called at each activation. load: makes an engine of a verified package, on
            anything but the provider that its second argument names, which may be "".
        changed: called after every change of state, from the activating thread; must not block.
        trial: tries a package before it is loaded here. choice: which variant runs here, and on what.
        factory: what to fall back on in the end.
        memory_megabytes: what loaded models may hold together, 0 for no limit. clock: seconds of the wall clock.
    """

    def __init__(
        self,
        store: Store,
        service: Service,
        trust: Callable[[], TrustDocument],
        load: Callable[[Package, str], Engine],
        changed: Callable[[], None],
        *,
        trial: Trial = lambda package, stop: try_in_child(package, 1, stop),
        choice: Callable[[Manifest], Choice] = choose,
        factory: Factory | None = None,
        memory_megabytes: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._changed = changed
        self._residents = service.residents
        self._closing = Event()
        self._steps = Steps(
            store, service, trust, load, trial, factory or Factory(), memory_megabytes, choice, self._closing.is_set
        )
        self._fallback = Fallback(self._steps, clock)
        self._restore = Restore(self._steps, self._fallback)
        self._shadows = Shadows(self._steps, service.shadowing)
        self._later: dict[str, Timer] = {}
        self._turns = Turns()

    def close(self) -> None:
        """Let the step that runs end; drop what waits."""
        self._closing.set()
        for timer in list(self._later.values()):
            timer.cancel()
        self._turns.close()

    def restore(self) -> None:
        """Before listening: every model's last good package answers again, from the store alone."""
        self._restore.all()

    def resume(self) -> None:
        """After listening: finish activations that a crash cut off, where their package is in the store, and load
        again the version before one that a rollout judges."""
        for record in self._store.records().values():
            wanted = record.wanted
            self._turns.later(self._compare_again, record.model)
            self._fill_later(record)
            if wanted is None or wanted.mode not in (Mode.ACTIVATE, Mode.SHADOW):
                continue
            seen = (record.quarantine_of(wanted.digest), record.refusal_of(wanted.digest))
            # A verdict upon an earlier hand-over of the same package is not one upon this: it was handed over again.
            judged = any(verdict is not None and verdict.epoch >= wanted.epoch for verdict in seen)
            resident = self._residents.active(record.model)
            if judged or (resident and resident.digest == wanted.digest) or not self._store.holds(wanted.digest):
                continue
            self._turns.bounded(
                self._obey, Handover(record.model, "", wanted.digest, wanted.rollout, wanted.epoch, wanted.mode)
            )

    def hand_over(
        self, handover: Handover, timeout_s: float = ANSWER_WITHIN_S, by_hand: bool = False
    ) -> HandoverAnswer:
        """Obey, and answer when the state is final, or BUILDING after ``timeout_s`` seconds.

        Args:
            by_hand: somebody on the device asks. The epoch is the one that holds, whatever the hand-over says: what is
                installed stays until the next deployment and outranks none; what is refused leaves all as it was.

        Raises:
            Overloaded: turns.MAX_PENDING hand-overs wait already.
        """
        try:
            return self._turns.bounded(self._obey, handover, by_hand).result(timeout_s)
        except FutureTimeout:
            return answer(handover, PackageState.BUILDING, UNKNOWN_VERSION)

    def rollback(self, model: str, reason: str, timeout_s: float = ANSWER_WITHIN_S) -> HandoverAnswer:
        """Quarantine what runs and put the previous package back, or the next in order that can be loaded.

        Raises:
            Refused: there is none. Unavailable: it is not done after ``timeout_s`` seconds, and goes on.
        """
        try:
            return self._turns.take(self._roll_back, model, reason).result(timeout_s)
        except FutureTimeout:
            raise Unavailable(f"The rollback of {model} is still under way.", "See hybridge-edge status.") from None

    def quarantine(self, model: str, digest: str, reason: str, timeout_s: float = ANSWER_WITHIN_S) -> HandoverAnswer:
        """Never run this digest again (until a higher epoch) because of what it did; the next in order takes over.

        Once is enough: a digest that is quarantined already changes nothing. A device does this by itself, so it does
        it ``fallback.MAX_SWITCHES`` times an hour at the most; after that nothing answers for the model until the hour
        is over. The answer is of what answers now: ACTIVE, or QUARANTINED where nothing does.

        Raises:
            Unavailable: it is not done after ``timeout_s`` seconds, and goes on; with 0 the caller waits for nothing.
        """
        try:
            return self._turns.take(self._quarantine, model, digest, reason).result(timeout_s)
        except FutureTimeout:
            raise Unavailable(f"The quarantine of {model} is still under way.", "See hybridge-edge status.") from None

    def fall_back(self, model: str, digest: str, reason: str) -> None:
        """What the package runs on failed while it served: run it on what else it can, or else quarantine it.

        Waits for nothing. The version stays what it is; that it runs elsewhere is said as ``degraded``.
        """
        self._turns.later(self._fall_back, model, digest, reason)

    def _fall_back(self, model: str, digest: str, reason: str) -> None:
        resident = self._residents.active(model)
        if resident is None or resident.digest != digest:
            return
        try:
            fresh = self._steps.elsewhere(resident, reason)
        except (HybridgeError, OSError) as error:
            _LOG.error("%s %s runs nowhere else: %s", model, resident.manifest.version, error)
            self._quarantine(model, digest, reason)
            return
        self._residents.replace(resident, fresh)
        _LOG.error("%s %s runs on %s now: %s", model, resident.manifest.version, fresh.engine.provider, reason)
        self._changed()

    def load(self, model: str, timeout_s: float = ANSWER_WITHIN_S) -> None:
        """Have a model's active package, which was unloaded, answer again; where it answers, nothing is done.

        Raises:
            ModelNotFound: no package of it is active on record. PackageRefused: it cannot be loaded. Unavailable: it is
            not done after ``timeout_s`` seconds, and goes on.
        """
        try:
            self._turns.take(self._load_again, model).result(timeout_s)
        except FutureTimeout:
            raise Unavailable(f"{model} is still being loaded.", "See hybridge-edge status.") from None

    def proven(self, model: str, digest: str) -> None:
        """The digest has answered often enough to be trusted (see service.TRIAL_RUNS)."""
        self._turns.later(self._believe, model, digest)

    def measured(self, digest: str) -> Measured | None:
        """What a package was measured to cost on this device, under this runtime."""
        return self._steps.measured(digest)

    def _believe(self, model: str, digest: str) -> None:
        try:
            self._store.trust(model, digest)
        except (HybridgeError, OSError) as error:
            _LOG.error("That %s has passed its first runs is not remembered: %s", model, error)

    def busy(self) -> bool:
        """Whether a switch is under way or waits."""
        return self._turns.busy()

    def _obey(self, handover: Handover, by_hand: bool = False) -> HandoverAnswer:
        record = self._store.record(handover.model)
        handover = replace(handover, epoch=record.epoch) if by_hand else handover
        resident = self._residents.active(handover.model)
        decision = decide(record, handover, resident is not None and resident.digest == handover.digest, by_hand)
        _LOG.info("hand-over of %s %s: %s", handover.model, handover.digest[:19], decision.action.value)
        if decision.action in (Action.SUPERSEDED, Action.QUARANTINED, Action.REFUSED):
            return decline(record, handover, decision)
        wanted = Wanted.of(handover)
        try:
            standby = self._residents.standby(handover.model)
            loaded = standby is not None and standby.digest == handover.digest and self._store.holds(handover.digest)
            if standby is not None and loaded and decision.action is Action.ACTIVATE:
                return self._switch_back(replace(record, wanted=wanted), handover, standby)
            shadow = self._residents.shadow(handover.model)
            loaded = shadow is not None and shadow.digest == handover.digest and self._store.holds(handover.digest)
            if shadow is not None and loaded and decision.action is Action.ACTIVATE:
                return self._shadows.promoted(replace(record, wanted=wanted), handover, shadow)
            if by_hand:
                record = replace(record, wanted=wanted)  # remembered with the switch, or not at all
            elif record.wanted is None or handover.epoch > record.wanted.epoch:
                record = self._store.want(record, wanted)
                self._shadows.settle(handover.model)  # before what follows needs its memory
                if resident is not None:
                    resident.heard = time.monotonic()
            if decision.action is Action.ALREADY:
                if handover.mode is Mode.RETIRE:
                    return answer(handover, PackageState.RETIRED, UNKNOWN_VERSION)
                assert resident is not None
                return answer(handover, PackageState.ACTIVE, resident.manifest.version)
            return self._act(record, handover, decision)
        except PackageRefused as error:
            return self._refuse(handover, f"{error.step}: {error.message}", error.step)
        except HybridgeError as error:
            if self._closing.is_set():  # what stands against the package is only that the server stops
                return answer(handover, PackageState.BUILDING, UNKNOWN_VERSION, error.message)
            return self._refuse(handover, error.message)
        except Exception as error:
            _LOG.exception("The activation of %s failed", handover.model)
            return self._refuse(handover, f"The activation failed: {type(error).__name__}: {error}")
        finally:
            self._shadows.settle(handover.model)
            self._changed()

    def _act(self, record: ModelRecord, handover: Handover, decision: Decision) -> HandoverAnswer:
        if decision.action is Action.RETIRE:
            self._store.retire(record)
            failpoint.reach("activation.retired")
            self._residents.unload(handover.model)
            self._store.collect_garbage()
            return answer(handover, PackageState.RETIRED, UNKNOWN_VERSION)
        package = self._steps.install(handover)
        failpoint.reach("activation.installed")
        if decision.action is Action.SHADOW:
            return self._shadows.stood(handover, package)
        self._steps.tried(package)
        if decision.action is Action.STAGE:
            return answer(handover, PackageState.STAGED, package.manifest.version)
        plan = self._steps.planned(package)
        back = record.previous is not None and record.previous.digest == package.digest
        fresh = self._steps.loaded(package, trusted=False, at="activation.loading")
        try:
            failpoint.reach("activation.loaded")
            measured = self._steps.warmed_up(package, fresh)
            before = self._residents.active(handover.model)
            paired = Paired() if back else self._steps.probed(package, fresh, before)
            failpoint.reach("activation.proven")
            self._store.activate(record, Installed(package.digest, package.manifest.version))
        except BaseException:
            fresh.engine.close()
            raise
        failpoint.reach("activation.persisted")
        self._residents.switch(fresh, back=back, paired=paired)
        failpoint.reach("activation.switched")
        return self._switched(handover, package, measured, plan, back)

    def _switched(
        self, handover: Handover, package: Package, measured: Measured, plan: Plan, back: bool
    ) -> HandoverAnswer:
        """Make the room that was planned, and say so."""
        for model in plan.let_go:
            self._residents.let_go(model)
        for model in plan.end_shadows:
            self._shadows.make_room(model, handover.model)
        if plan.previous is Previous.ON_DISK:
            self._residents.let_go(handover.model)
        self._tidy()
        failpoint.reach("activation.collected")
        kept = "" if back or plan.previous is Previous.NONE else f"; the version before is {plan.previous.value}"
        made = f"; {', '.join(plan.let_go)} lost a resident version before" if plan.let_go else ""
        note = f"{measured}{kept}: {plan.reason}{made}"
        _LOG.info("%s %s answers: %s", handover.model, package.manifest.version, note)
        return answer(handover, PackageState.ACTIVE, package.manifest.version, note=note)

    def _switch_back(self, record: ModelRecord, handover: Handover, standby: Resident) -> HandoverAnswer:
        """The version before, which is loaded still, answers again: one write, one pointer."""
        version = standby.manifest.version
        self._store.activate(record, Installed(standby.digest, version), trusted=standby.trusted)
        failpoint.reach("activation.persisted")
        with self._closed_later(handover.model):
            self._residents.switch(standby, back=True)
        failpoint.reach("activation.switched")
        self._tidy()
        return answer(handover, PackageState.ACTIVE, version, note="it was resident")

    def _tidy(self) -> None:
        """Remove packages that nobody needs, behind a switch: what cannot be removed now says nothing of the one that
        answers, and goes with the next change or start."""
        try:
            self._store.collect_garbage()
        except OSError as error:
            _LOG.warning("Old packages stay on the disk for now: %s", error)

    def _load_again(self, model: str) -> None:
        self._restore.load_again(model)
        self._shadows.again(model)
        self._changed()

    def _compare_again(self, model: str) -> None:
        self._restore.compare_again(model)
        self._changed()

    def _roll_back(self, model: str, reason: str) -> HandoverAnswer:
        with self._closed_later(model):
            record = self._fallback.roll_back(model, reason)
        self._changed()
        return standing(record, reason)

    def _quarantine(self, model: str, digest: str, reason: str) -> HandoverAnswer:
        with self._closed_later(model):
            record = self._fallback.quarantine(model, digest, reason)
            self._shadows.settle(model)
        self._fill_later(record)
        self._changed()
        return standing(record, reason)

    @contextmanager
    def _closed_later(self, model: str) -> Iterator[None]:
        """What is left behind inside is closed after the answer: freeing 64 MB takes 20 ms."""
        with ExitStack() as held:
            with suppress(ModelNotFound):
                held.enter_context(self._residents.lease(model, ""))
            yield
            later = held.pop_all()
            if not self._turns.later(later.close):
                later.close()

    def _fill_later(self, record: ModelRecord) -> None:
        """Where it was too soon to fall back, do it when it is not."""
        seconds = self._fallback.held_for(record)
        if record.active is not None or not record.should_answer or not seconds or self._closing.is_set():
            return
        timer = Timer(seconds, self._fill, (record.model,))
        timer.daemon = True
        self._later[record.model] = timer
        timer.start()

    def _fill(self, model: str) -> None:
        self._turns.later(self._fill_now, model)

    def _fill_now(self, model: str) -> None:
        record = self._fallback.fill(self._store.record(model))
        self._shadows.again(model)
        self._fill_later(record)  # where the clock says that it is too soon still
        self._changed()

    def _refuse(self, handover: Handover, reason: str, step: str = "") -> HandoverAnswer:
        _LOG.error("%s %s is refused: %s", handover.model, handover.digest[:19], reason)
        record = self._store.record(handover.model)
        seen = record.refusal_of(handover.digest) is not None
        seen = seen or any(item.digest == handover.digest for item in record.history)
        version = claimed_version(Path(handover.package))
        try:
            self._store.refuse(record, Verdict(handover.digest, version, reason, handover.epoch, step))
        except SpoolFull as error:
            _LOG.error("The refusal is not remembered: %s", error)
        return answer(handover, PackageState.REFUSED, version, reason, seen)
