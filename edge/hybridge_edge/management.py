"""The verbs of the management socket: what a model component, the operator on the device and our own CLI may ask.

One JSON object a line: {"verb": ...} there, {"ok": true, ...} or {"ok": false, "error", "message", "remedy"} back.
``docs/management.md`` has every verb with its fields, answers and errors. A verb reads all its fields, and refuses
those it does not know, before it does anything.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hybridge_edge import runtime
from hybridge_edge.admission.activation import Activation
from hybridge_edge.capture import Capture
from hybridge_edge.contract import names
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, InvalidInput, ModelNotFound, Refused
from hybridge_edge.contract.feedback import Feedback
from hybridge_edge.contract.handover import BY_HAND, MAX_LINE_BYTES, Handover
from hybridge_edge.front.tls_status import TlsStatus
from hybridge_edge.ledger import MAX_REASON, Installed
from hybridge_edge.live_settings import SettingsStanding
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.standing import standing
from hybridge_edge.store import Store

_LOG = logging.getLogger(__name__)
LOCAL_ROLLBACK = "Rolled back on the device."
VERBS = (
    "activate", "capture", "captured", "describe", "feedback", "install", "list", "load", "rollback", "shadow",
    "status", "unload",
)  # fmt: skip
Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a start decides; ``target`` is the kind of device, ``metrics`` HOST:PORT or ""."""

    version: str
    inference: str
    tcp: str
    target: str = ""
    metrics: str = ""


class Management:
    """Answers lines; see ``lines.LineServer``."""

    def __init__(
        self,
        service: Service,
        store: Store,
        activation: Activation,
        facts: Facts,
        settings: Callable[[], SettingsStanding] | None = None,
    ) -> None:
        self._service = service
        self._store = store
        self._activation = activation
        self._facts = facts
        self._settings = settings
        self._started = time.monotonic()
        self._verbs: dict[str, Callable[[Reader], Fields]] = {
            name: getattr(self, f"_{name}") for name in VERBS if name not in ("activate", "install")
        }

    def answer(self, line: bytes) -> bytes:
        """One line for one line; every error becomes an answer."""
        try:
            reader = parse(line, "request", MAX_LINE_BYTES)
            verb = reader.text("verb")
            if verb == "activate":
                return self._activation.hand_over(Handover.from_line(line)).to_line()
            if verb == "install":
                return self._activation.hand_over(_by_hand(reader), by_hand=True).to_line()
            if verb not in self._verbs:
                raise InvalidDocument(f"There is no verb {verb[:40]!r}.", f"Verbs: {', '.join(VERBS)}.")
            return canonical({"ok": True, **self._verbs[verb](reader)})
        except HybridgeError as error:
            return canonical({"ok": False, "error": error.code, "message": error.message, "remedy": error.remedy})
        except Exception:
            _LOG.exception("A management request failed")
            message = "The server failed at this request."
            return canonical({"ok": False, "error": "INTERNAL", "message": message, "remedy": "Look at its log."})

    def _status(self, reader: Reader) -> Fields:
        reader.close()
        capture = self._service.capture
        return {
            "server": {
                **asdict(self._facts),
                "spool": str(capture.folder) if capture is not None else "",
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 3),
            },
            "models": [report.to_json() for report in standing(self._store, self._service)],
            "capture": asdict(capture.counters()) if capture is not None else {},
            "settings": asdict(self._settings()) if self._settings is not None else {},
            "tls": _tls(),
        }

    def _list(self, reader: Reader) -> Fields:
        reader.close()
        models = []
        shadows = {one.model: one.version for one in self._service.shadowing.readings()}
        for record in self._store.records().values():
            models.append(
                {
                    "model": record.model,
                    "active": record.active.version if record.active else "",
                    "previous": record.previous.version if record.previous else "",
                    "resident": list(self._service.residents.versions(record.model)),
                    "shadow": shadows.get(record.model, ""),
                    "epoch": record.epoch,
                    "quarantined": [verdict.to_json() for verdict in record.quarantined],
                    "refused": [verdict.to_json() for verdict in record.refused],
                }
            )
        return {"models": models}

    def _describe(self, reader: Reader) -> Fields:
        model = reader.text("model", check=names.model_name)
        reader.close()
        resident = self._service.residents.find(model, "")
        manifest, counters = resident.manifest, self._service.counters(model)
        measured = self._activation.measured(resident.digest)
        return {
            "model": manifest.name,
            "version": manifest.version,
            "digest": resident.digest,
            "provider": resident.engine.provider,
            "degraded": resident.engine.degraded,
            "features_digest": manifest.features_digest,
            "inputs": [spec.to_json() for spec in manifest.inputs],
            **({"codecs": [codec.to_json() for codec in manifest.codecs]} if manifest.codecs else {}),
            "outputs": [spec.to_json() for spec in manifest.outputs],
            "labels": list(manifest.labels),
            "max_batch": manifest.max_batch,
            "resident": list(self._service.residents.versions(manifest.name)),
            "counters": asdict(counters),
            "measured": asdict(measured) if measured is not None else {},
        }

    def _shadow(self, reader: Reader) -> Fields:
        """What stands beside a model's active version, and how the two compare."""
        model = reader.text("model", check=names.model_name)
        reader.close()
        self._active(model)
        shadowing = self._service.shadowing
        found = next((one for one in shadowing.readings() if one.model == model), None)
        if found is None:
            return {"model": model, "version": "", "share": shadowing.share}
        return {
            "model": model,
            "version": found.version,
            "digest": found.digest,
            "provider": found.provider,
            "against": found.against_version,
            "share": shadowing.share,
            "seconds": found.seconds,
            "evidence": found.evidence().to_json(),
            "dropped": dict(shadowing.dropped(model)),
            "scores": found.scores.to_json(),
            "scores_against": found.first_scores.to_json(),
        }

    def _load(self, reader: Reader) -> Fields:
        """Back into memory after an unload: the active version, whatever it is, or only if it is ``version``."""
        model, version = reader.text("model", check=names.model_name), reader.text("version", "")
        reader.close()
        active = self._active(model)
        if version not in ("", active.version):
            raise Refused(
                f"{model} {version[:40]!r} is not the active version: {active.version} is.",
                "Hand it over, or roll back to it: loading changes no version.",
            )
        loaded = self._service.residents.active(model) is not None
        self._activation.load(model)
        return {"model": model, "version": active.version, "digest": active.digest, "was_loaded": loaded}

    def _unload(self, reader: Reader) -> Fields:
        """Out of memory until the next load, start or hand-over; the ledger stays."""
        model = reader.text("model", check=names.model_name)
        reader.close()
        resident: Resident = self._service.residents.find(model, "")
        self._service.residents.unload(model)
        return {"model": model, "version": resident.manifest.version}

    def _rollback(self, reader: Reader) -> Fields:
        model, reason = reader.text("model", check=names.model_name), reader.text("reason", LOCAL_ROLLBACK)
        reader.close()
        if not 1 <= len(reason) <= MAX_REASON:
            raise InvalidDocument(f"The reason is {len(reason)} characters; 1 to {MAX_REASON} are allowed.")
        answer = self._activation.rollback(model, reason)
        return {"state": answer.state.value, "model": model, "version": answer.version, "digest": answer.digest}

    def _feedback(self, reader: Reader) -> Fields:
        """A label for a sample that was answered here; on the disk when it is answered."""
        feedback = Feedback.read(reader, at_ms=time.time_ns() // 1_000_000)
        reader.close()
        model = feedback.model
        self._active(model)
        resident = self._service.residents.active(model)
        known = resident.manifest.labels if resident is not None else ()
        if known and feedback.label not in known:
            raise InvalidInput(f"{model} has no label {feedback.label!r}.", f"Labels: {', '.join(known)}.")
        capture = self._capturing()
        capture.note(feedback.to_bytes())
        where = capture.where(feedback.sample_id).where.value
        return {"model": model, "sample_id": feedback.sample_id, "label": feedback.label, "sample": where}

    def _capture(self, reader: Reader) -> Fields:
        on = reader.boolean("on")
        reader.close()
        self._capturing().enable(on)
        return {"on": on}

    def _captured(self, reader: Reader) -> Fields:
        """Where a sample stands on its way to the cloud."""
        sample_id = reader.text("sample_id", check=names.sample_id)
        reader.close()
        trace = self._capturing().where(sample_id)
        return {"sample_id": sample_id, "sample": trace.where.value, "reason": trace.reason}

    def _active(self, model: str) -> Installed:
        active = self._store.record(model).active
        if active is None:
            raise ModelNotFound(f"No package of {model} is active on this device.", "See hybridge-edge list.")
        return active

    def _capturing(self) -> Capture:
        if self._service.capture is None:
            raise Refused("Nothing is captured on this device.", "Set captureShare or captureConfidenceBelow.")
        return self._service.capture


def _tls() -> Fields:
    """What the front says of TLS on the network; nothing where TCP is off or plain."""
    status = TlsStatus.read(runtime.folder())
    return {"state": status.state(time.time()), **asdict(status)} if status is not None else {}


def _by_hand(reader: Reader) -> Handover:
    model = reader.text("model", check=names.model_name)
    handover = Handover(model, reader.text("package"), reader.text("digest", check=names.digest), BY_HAND, 0)
    reader.close()
    return handover
