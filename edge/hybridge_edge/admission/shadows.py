"""Shadows: a package that is loaded and run beside the version that answers, and answers nobody itself.

It passes the steps of an activation up to the switch, and that is left out. The ledger says what is to stand there
(``ModelRecord.shadow``): the package that the hand-over that holds asks for in mode ``shadow``. So any later hand-over
ends it, and a restart brings it back. An activation of the same digest makes it the active version: one write, one
pointer.
"""

from __future__ import annotations

import logging

from hybridge_edge import failpoint
from hybridge_edge.admission.answers import answer
from hybridge_edge.admission.steps import Steps
from hybridge_edge.contract.errors import HybridgeError, PackageRefused, SpoolFull
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.states import PackageState
from hybridge_edge.ledger import Installed, ModelRecord, Verdict
from hybridge_edge.package import Package
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.shadow import Shadowing

_LOG = logging.getLogger(__name__)
STEP = "shadow"


class Shadows:
    """Over the steps; used by the activating thread alone."""

    def __init__(self, steps: Steps, shadowing: Shadowing) -> None:
        self._steps = steps
        self._store = steps.store
        self._residents = steps.residents
        self._shadowing = shadowing

    def stood(self, handover: Handover, package: Package) -> HandoverAnswer:
        """Have an installed package stand beside the active version.

        Raises:
            PackageRefused: nothing answers for the model, one of the two has states, the two take different inputs
            (step shadow), there is no room in memory for both (step budget), or the package fails a step of an
            activation.
        """
        model, version = handover.model, package.manifest.version
        first = self._residents.active(model)
        if first is None:
            raise PackageRefused(
                f"No version of {model} answers here, so there is none to stand beside.", "Activate it.", step=STEP
            )
        if package.manifest.states or first.manifest.states:
            raise PackageRefused(
                f"{model} keeps states between requests, and a share of a sequence's requests gives a shadow none of "
                "them.",
                "Activate it.",
                step=STEP,
            )
        if package.manifest.inputs != first.manifest.inputs:
            raise PackageRefused(
                f"{version} takes other inputs than {first.manifest.version}, which answers: no request fits both.",
                "Activate it.",
                step=STEP,
            )
        shadow = self._residents.shadow(model)
        if shadow is not None and shadow.digest == package.digest:
            return answer(handover, PackageState.SHADOW, version)
        standby = self._residents.standby(model)
        if standby is not None and standby.digest == package.digest:
            self._shadowing.stand(standby, first, self._steps.probed(package, standby, first))
            return answer(handover, PackageState.SHADOW, version, note="it was resident")
        self._steps.tried(package)
        let_go = self._steps.room_beside(package)
        fresh = self._steps.loaded(package, trusted=False, at="activation.loading")
        try:
            measured = self._steps.warmed_up(package, fresh)
            paired = self._steps.probed(package, fresh, first)
        except BaseException:
            fresh.engine.close()
            raise
        for other in let_go:
            self._residents.let_go(other)
        self._shadowing.stand(fresh, first, paired)
        self._tidy()
        made = f"; {', '.join(let_go)} lost a resident version before" if let_go else ""
        note = f"{measured}; it stands beside {first.manifest.version}{made}"
        _LOG.info("%s %s is a shadow: %s", model, version, note)
        return answer(handover, PackageState.SHADOW, version, note=note)

    def again(self, model: str) -> None:
        """After the model was out of memory: what the ledger asks for stands beside it again, where it still can."""
        record = self._store.record(model)
        wanted = record.wanted
        if not record.shadow or wanted is None:
            return
        try:
            self.stood(
                Handover(model, "", wanted.digest, wanted.rollout, wanted.epoch, wanted.mode),
                self._steps.open(wanted.digest),
            )
        except (HybridgeError, OSError) as error:
            _LOG.error("The shadow of %s does not stand beside it again: %s", model, error)

    def promoted(self, record: ModelRecord, handover: Handover, shadow: Resident) -> HandoverAnswer:
        """The shadow answers from now on; the version that answered stays loaded, as both were."""
        version = shadow.manifest.version
        tally = shadow.shadow_tally
        paired = tally.reading().paired if tally is not None else Paired()
        self._store.activate(record, Installed(shadow.digest, version))
        failpoint.reach("activation.persisted")
        self._residents.switch(shadow, paired=paired)
        failpoint.reach("activation.switched")
        self._tidy()
        return answer(handover, PackageState.ACTIVE, version, note="it was resident as a shadow")

    def settle(self, model: str) -> None:
        """End a shadow that the ledger does not ask for any more. Doing it again changes nothing."""
        shadow = self._residents.shadow(model)
        if shadow is not None and self._store.record(model).shadow != shadow.digest:
            self._residents.end_shadow(model)
            _LOG.info("%s %s is no shadow any more.", model, shadow.manifest.version)

    def make_room(self, model: str, other: str) -> None:
        """The shadow of ``model`` goes, since ``other`` needs its memory to answer; the device reports that."""
        shadow, record = self._residents.shadow(model), self._store.record(model)
        if shadow is None:
            return
        reason = f"budget: as a shadow it made room for {other}, which answers."
        try:
            self._store.refuse(record, Verdict(shadow.digest, shadow.manifest.version, reason, record.epoch, "budget"))
        except SpoolFull as error:
            _LOG.error("That the shadow of %s made room is not remembered: %s", model, error)
        self._residents.end_shadow(model)
        _LOG.warning("%s %s: %s", model, shadow.manifest.version, reason)

    def _tidy(self) -> None:
        """Packages that nobody needs go; one that cannot be removed now goes with the next change or start."""
        try:
            self._store.collect_garbage()
        except OSError as error:
            _LOG.warning("Old packages stay on the disk for now: %s", error)
