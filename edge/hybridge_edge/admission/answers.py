"""What a hand-over is answered."""

from __future__ import annotations

from pathlib import Path

from hybridge_edge.admission.decision import Action, Decision
from hybridge_edge.contract.errors import InvalidDocument, PackageRefused
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.states import PackageState
from hybridge_edge.ledger import UNKNOWN_VERSION, ModelRecord
from hybridge_edge.package import read_small


def decline(record: ModelRecord, handover: Handover, decision: Decision) -> HandoverAnswer:
    """A hand-over that is not obeyed: superseded, quarantined, or refused before."""
    quarantined = decision.action is Action.QUARANTINED
    verdict = record.quarantine_of(handover.digest) if quarantined else record.refusal_of(handover.digest)
    version = verdict.version if verdict and decision.action is not Action.SUPERSEDED else UNKNOWN_VERSION
    state = PackageState.QUARANTINED if quarantined else PackageState.REFUSED
    return answer(handover, state, version, decision.reason, seen_before=True)


def answer(
    handover: Handover,
    state: PackageState,
    version: str,
    reason: str = "",
    seen_before: bool = False,
    note: str = "",
) -> HandoverAnswer:
    """The answer to a hand-over."""
    return HandoverAnswer(state, handover.model, version, handover.digest, handover.epoch, reason, seen_before, note)


def standing(record: ModelRecord, reason: str) -> HandoverAnswer:
    """What answers after the device or somebody on it changed that."""
    if record.active is None:
        verdict = record.quarantined[-1]
        return HandoverAnswer(
            PackageState.QUARANTINED, record.model, verdict.version, verdict.digest, record.epoch, reason, True
        )
    active = record.active
    return HandoverAnswer(PackageState.ACTIVE, record.model, active.version, active.digest, record.epoch, reason, True)


def claimed_version(folder: Path) -> str:
    """The version a refused package says it has, for people to read; believed for nothing."""
    try:
        return Manifest.from_bytes(read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)).version
    except (PackageRefused, InvalidDocument):
        return UNKNOWN_VERSION
