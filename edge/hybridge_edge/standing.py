"""Where each model stands on this device, as its report and ``hybridge-edge status`` say it."""

from __future__ import annotations

from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import Mode, PackageState
from hybridge_edge.ledger import UNKNOWN_VERSION, ModelRecord
from hybridge_edge.service import Service
from hybridge_edge.store import Store


def standing(store: Store, service: Service) -> tuple[ModelReport, ...]:
    """What answers, and what was asked for and may not or has gone, where that is another package."""
    reports: list[ModelReport] = []
    for record in store.records().values():
        resident = service.resident(record.model)
        if resident is not None:
            version, digest = resident.manifest.version, resident.digest
            provider = resident.engine.provider
            reports.append(_report(service, record, version, digest, PackageState.ACTIVE, provider=provider))
        wanted = record.wanted
        if wanted is None or (resident is not None and resident.digest == wanted.digest):
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
    )
