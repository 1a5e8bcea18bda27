"""Where each model stands on this device, as its report and ``hybridge-edge status`` say it."""

from __future__ import annotations

import time
from dataclasses import replace

from hybridge_edge.contract.report import Evidence, ModelReport
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.contract.telemetry import Beside
from hybridge_edge.ledger import UNKNOWN_VERSION, ModelRecord
from hybridge_edge.reporting import Durations
from hybridge_edge.serving.service import Service
from hybridge_edge.store import Store

EVALUATION_SECONDS = 6 * 3600.0
"""How long after a hand-over its rollout is taken to be judging it; longer than a wave's deadline."""


def standing(store: Store, service: Service) -> tuple[ModelReport, ...]:
    """What answers, and what was asked for and is a shadow, may not, or has gone, where that is another package."""
    reports: list[ModelReport] = []
    readings = {one.model: one for one in service.shadowing.readings()}
    for record in store.records().values():
        resident = service.residents.active(record.model)
        if resident is not None:
            version, digest = resident.manifest.version, resident.digest
            engine = resident.engine
            evidence = resident.tally.evidence(resident.against, resident.paired)
            active = PackageState.ACTIVE
            reports.append(
                _report(
                    service, record, version, digest, active,
                    provider=engine.provider, evidence=evidence, degraded=engine.degraded,
                )
            )  # fmt: skip
        wanted = record.wanted
        if wanted is None or (resident is not None and resident.digest == wanted.digest):
            continue
        reading = readings.get(record.model)
        if reading is not None and reading.digest == record.shadow:
            beside = _report(
                service, record, reading.version, reading.digest, PackageState.SHADOW,
                provider=reading.provider, evidence=reading.evidence(),
            )  # fmt: skip
            reports.append(replace(beside, requests=0, failures=0))  # it answers nobody
            continue
        quarantine, refusal = record.quarantine_of(wanted.digest), record.refusal_of(wanted.digest)
        if wanted.mode is Mode.RETIRE:
            reports.append(_report(service, record, UNKNOWN_VERSION, wanted.digest, PackageState.RETIRED))
        elif quarantine is not None:
            state, reason = PackageState.QUARANTINED, quarantine.reason
            reports.append(_report(service, record, quarantine.version, wanted.digest, state, reason))
        elif refusal is not None:
            state, reason = PackageState.REFUSED, refusal.reason
            reports.append(_report(service, record, refusal.version, wanted.digest, state, reason))
    return tuple(reports)


def _report(
    service: Service,
    record: ModelRecord,
    version: str,
    digest: str,
    state: PackageState,
    reason: str = "",
    provider: str = "",
    evidence: Evidence | None = None,
    degraded: str = "",
) -> ModelReport:
    counters = service.counters(record.model)
    return ModelReport(
        model=record.model,
        version=version,
        digest=digest,
        state=state,
        rollout=record.wanted.rollout if record.wanted else "",
        epoch=record.epoch,
        provider=provider,
        reason=reason,
        requests=counters.requests,
        failures=counters.failures,
        evidence=evidence,
        degraded=degraded,
    )


def under_evaluation(store: Store, service: Service) -> bool:
    """Whether some model answers or is a shadow for a rollout that may still judge it: not put back, not for long."""
    for record in store.records().values():
        resident, wanted = service.residents.active(record.model), record.wanted
        shadow = service.residents.shadow(record.model)
        asked = shadow is not None and wanted is not None and shadow.digest == wanted.digest and wanted.judged
        if shadow is not None and asked and time.monotonic() - shadow.since < EVALUATION_SECONDS:
            return True
        if resident is None or wanted is None or resident.digest != wanted.digest or not wanted.judged:
            continue
        if not resident.put_back and time.monotonic() - resident.heard < EVALUATION_SECONDS:
            return True
    return False


def durations(store: Store, service: Service) -> tuple[Durations, ...]:
    """How long the answers of each active model, and the runs of each shadow, took, where there were any."""
    found = []
    for record in store.records().values():
        resident = service.residents.active(record.model)
        if resident is None or not (latency := resident.tally.latency()).count:
            continue
        rollout = record.wanted.rollout if record.wanted else ""
        seconds = int(time.monotonic() - resident.since)
        version, digest = resident.manifest.version, resident.digest
        scores = service.statistics.scores(record.model, version)
        found.append(
            Durations(
                record.model, version, digest, rollout, record.epoch, seconds, latency,
                scores if scores.count or scores.strange else None,
            )
        )  # fmt: skip
    for one in service.shadowing.readings():
        if one.runs:
            wanted = store.record(one.model).wanted
            rollout, epoch = (wanted.rollout, wanted.epoch) if wanted is not None else ("", 0)
            beside = Beside(one.against, one.rows, one.disagreed, one.first_scores if one.rows else None)
            found.append(
                Durations(
                    one.model, one.version, one.digest, rollout, epoch, one.seconds, one.latency,
                    one.scores if one.rows else None, beside,
                )
            )  # fmt: skip
    return tuple(found)
