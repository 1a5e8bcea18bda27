"""The steps a package passes before it may answer; each refuses with a PackageRefused that names it.

    verify    signature, digest, name                     nothing has changed
    lint      the graphs' bytes against policy            "
    install   room on the disk, then every byte copied    "
    trial     loaded and examined in a child process      what a child can break is the child
    load      sessions made, signatures compared          a mark names the digest: dying here counts against it
    golden    known inputs give known outputs             "
    warm-up   run until it is warm                        "
    budget    latency and memory within limits            "
    probes    the new and the old model, in turns         "

A package that passed its trial under this runtime on this device is not tried again (see ``passed``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from hybridge_edge import engine, failpoint
from hybridge_edge.admission.factory import Factory
from hybridge_edge.admission.golden import check_golden
from hybridge_edge.admission.lint import check_graphs
from hybridge_edge.admission.passed import Measured, Passed
from hybridge_edge.admission.plan import Held, Plan, check_disk, plan, plan_shadow
from hybridge_edge.admission.probes import answer_probes
from hybridge_edge.admission.trial import Verdict
from hybridge_edge.admission.warm_up import warm_up
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.manifest import Manifest
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import Choice, Engine
from hybridge_edge.package import Package
from hybridge_edge.serving.evidence import Paired
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store
from hybridge_edge.trust import open_package

_LOG = logging.getLogger(__name__)
Trial = Callable[[Package, Callable[[], bool]], Verdict]
"""Tries a package in a child; the second argument says when to give up."""


class Steps:
    """Over one store and one service; used by the activating thread alone.

    Args:
        load: makes an engine of a verified package, without the provider it is told. memory_megabytes: what loaded
            models may hold together, 0 for no limit. choice: which variant runs here, and on what. stop: whether to end
            early.
    """

    def __init__(
        self,
        store: Store,
        service: Service,
        trust: Callable[[], TrustDocument],
        load: Callable[[Package, str], Engine],
        trial: Trial,
        factory: Factory,
        memory_megabytes: int,
        choice: Callable[[Manifest], Choice],
        stop: Callable[[], bool],
    ) -> None:
        self.store = store
        self.residents = service.residents
        self.trust = trust
        self.factory = factory
        self._runner = service.runner
        self._load = load
        self._trial = trial
        self._passed = Passed(store.folder)
        self._memory_megabytes = memory_megabytes
        self._choice = choice
        self._stop = stop

    def install(self, handover: Handover) -> Package:
        """Verify, lint, install: the package asked for, out of the store, copied there where it is not yet."""
        trust = self.trust()
        if self.store.holds(handover.digest):
            try:
                package = _of_model(self.store.open(handover.digest, trust), handover.model)
                package.verify_files()
                self._lint(package)
                return package
            except PackageRefused as error:
                if error.step == "lint":
                    raise
                _LOG.warning("The store's copy is of no use: %s", error)
        source = _of_model(open_package(Path(handover.package), trust), handover.model)
        if source.digest != handover.digest:
            raise PackageRefused(
                f"The folder holds package {source.digest[:19]}, not {handover.digest[:19]}.",
                "Publish the model's component again.",
            )
        source.verify_files()
        failpoint.reach("activation.verified")
        self._lint(source)
        failpoint.reach("activation.linted")
        size = sum(entry.size for entry in source.manifest.files)
        try:
            check_disk(size, self.store.free_bytes())
        except PackageRefused:
            self.store.collect_garbage(spare=False)
            check_disk(size, self.store.free_bytes())
        return self.store.install(source, trust)

    def open(self, digest: str) -> Package:
        """A package that was active before: from the store, else from the factory. PackageRefused."""
        trust = self.trust()
        if not self.store.holds(digest) and (package := self.factory.find(digest, trust)) is not None:
            return package
        return self.store.open(digest, trust)

    def tried(self, package: Package) -> Measured:
        """What the package was measured to cost in a trial, which is made now if none was passed under this runtime."""
        runtime = engine.runtime_version()
        known = self._passed.find(package.digest, runtime)
        if known is not None:
            return known
        verdict = self._trial(package, self._stop)
        _LOG.info("%s %s passed its trial: %s", package.manifest.name, package.manifest.version, verdict.measured)
        self._passed.remember(package.digest, runtime, verdict.measured)
        return verdict.measured

    def planned(self, package: Package) -> Plan:
        """What stays in memory beside it. PackageRefused, step budget, where it may not be loaded at all."""
        manifest = package.manifest
        megabytes = self.megabytes(manifest, package.digest)
        return plan(manifest.name, megabytes, manifest.budgets, self.held(), self._memory_megabytes)

    def room_beside(self, package: Package) -> tuple[str, ...]:
        """Models whose versions before make room for it as a shadow. PackageRefused, step budget, where none can."""
        manifest = package.manifest
        megabytes = self.megabytes(manifest, package.digest)
        return plan_shadow(manifest.name, megabytes, manifest.budgets, self.held(), self._memory_megabytes)

    def elsewhere(self, resident: Resident, reason: str) -> Resident:
        """A resident's package on another provider than its own, which failed. PackageRefused where it has none."""
        package = self.open(resident.digest)
        fresh = self.loaded(package, trusted=resident.trusted, at="restore.loading", without=resident.engine.provider)
        fresh.engine.degraded = reason
        return fresh

    def loaded(self, package: Package, *, trusted: bool, at: str, without: str = "") -> Resident:
        """Load it here and compare its golden outputs, marked meanwhile as the one to blame.

        Args:
            trusted: it ran often enough before. at: names the failpoint. without: a provider that is not tried.
        """
        mark = self.store.trial(package.digest)
        with mark:
            failpoint.reach(at)
            loaded = self._load(package, without)
            try:
                check_golden(package, loaded)
            except BaseException:
                loaded.close()
                raise
        if trusted:
            mark.trust()
        return Resident(package.manifest, package.digest, loaded, mark)

    def again(self, package: Package, *, trusted: bool, at: str) -> Resident:
        """Load a package that answered before; one that is not trusted is tried first where the runtime is another."""
        if not trusted and self._passed.find(package.digest, engine.runtime_version()) is None:
            self._lint(package)
            self.tried(package)
        return self.loaded(package, trusted=trusted, at=at)

    def warmed_up(self, package: Package, fresh: Resident) -> Measured:
        """Warm-up, and the budget of latency; what kept it once under this runtime is warmed and not measured again."""
        known = self.measured(package.digest)
        measure = known is None or not known.p99_us
        warmth = warm_up(package, fresh, self._runner, self._stop, measure=measure)
        if known is not None and not measure:
            return known
        return self._passed.warmed_up(package.digest, engine.runtime_version(), warmth.p50_us, warmth.p99_us)

    def probed(self, package: Package, fresh: Resident, before: Resident | None) -> Paired:
        """The probes' answers of the new version and of the one that answers now."""
        if before is None or before.digest == fresh.digest:
            return Paired()
        return answer_probes(package, fresh, before, self._runner, self._stop)

    def measured(self, digest: str) -> Measured | None:
        """What was measured of a package under this runtime."""
        return self._passed.find(digest, engine.runtime_version())

    def megabytes(self, manifest: Manifest, digest: str) -> int:
        """What a package takes in memory: as measured here, else as its manifest says, else as large as its graphs are.

        Where memory is not the process' own, such as a GPU's, the manifest's figure counts if it is larger.
        """
        choice, known = self._choice(manifest), self.measured(digest)
        stated = choice.variant.memory_megabytes
        if known is not None and known.memory_kib:
            return known.memory_megabytes if choice.on_cpu else max(known.memory_megabytes, stated)
        graphs = {choice.variant.features, choice.variant.model}
        return stated or -(-sum(entry.size for entry in manifest.files if entry.path in graphs) // 1024**2)

    def held(self) -> tuple[Held, ...]:
        """What is in memory now."""
        found = []
        for one in self.residents.loaded():
            manifest = one.manifest
            answers = self.residents.active(manifest.name) is one
            shadow = self.residents.shadow(manifest.name) is one
            found.append(Held(manifest.name, manifest.version, self.megabytes(manifest, one.digest), answers, shadow))
        return tuple(found)

    @property
    def memory_limit(self) -> int:
        """MB that loaded models may hold together, 0 for no limit."""
        return self._memory_megabytes

    def _lint(self, package: Package) -> None:
        check_graphs(package, engine.readable())


def _of_model(package: Package, model: str) -> Package:
    if package.manifest.name != model:
        raise PackageRefused(
            f"The package is of model {package.manifest.name!r}, not {model!r}.", "Publish the model's component again."
        )
    return package
