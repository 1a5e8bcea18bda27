"""The verbs of the management socket: what a model component, the operator on the device and our own CLI may ask.

One JSON object a line: {"verb": ...} there, {"ok": true, ...} or {"ok": false, "error", "message", "remedy"} back.
Verbs: activate (see contract.handover), status, list, describe {model}, rollback {model, reason?}, unload {model},
capture {on}.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from hybridge_edge.admission.activation import Activation
from hybridge_edge.contract.document import Reader, canonical, parse
from hybridge_edge.contract.errors import HybridgeError, InvalidDocument, Refused
from hybridge_edge.contract.handover import MAX_LINE_BYTES, Handover
from hybridge_edge.contract.names import model_name
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.standing import standing
from hybridge_edge.store import Store

_LOG = logging.getLogger(__name__)
LOCAL_ROLLBACK = "Rolled back on the device."


@dataclass(frozen=True, slots=True)
class Facts:
    """What does not change while the server runs."""

    version: str
    inference: str
    tcp: str
    spool: str


class Management:
    """Answers lines; see ``lines.LineServer``."""

    def __init__(self, service: Service, store: Store, activation: Activation, facts: Facts) -> None:
        self._service = service
        self._store = store
        self._activation = activation
        self._facts = facts
        self._started = time.monotonic()
        self._verbs: dict[str, Callable[[Reader], dict[str, object]]] = {
            "status": self._status,
            "list": self._list,
            "describe": self._describe,
            "rollback": self._rollback,
            "unload": self._unload,
            "capture": self._capture,
        }

    def answer(self, line: bytes) -> bytes:
        """One line for one line; every error becomes an answer."""
        try:
            reader = parse(line, "request", MAX_LINE_BYTES)
            verb = reader.text("verb")
            if verb == "activate":
                return self._activation.hand_over(Handover.from_line(line)).to_line()
            if verb not in self._verbs:
                known = ", ".join(("activate", *self._verbs))
                raise InvalidDocument(f"There is no verb {verb[:40]!r}.", f"Verbs: {known}.")
            fields = self._verbs[verb](reader)
            reader.close()
            return canonical({"ok": True, **fields})
        except HybridgeError as error:
            return canonical({"ok": False, "error": error.code, "message": error.message, "remedy": error.remedy})
        except Exception:
            _LOG.exception("A management request failed")
            message = "The server failed at this request."
            return canonical({"ok": False, "error": "INTERNAL", "message": message, "remedy": "Look at its log."})

    def _status(self, reader: Reader) -> dict[str, object]:
        capture = self._service.capture
        return {
            "server": {
                **asdict(self._facts),
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._started, 3),
            },
            "models": [report.to_json() for report in standing(self._store, self._service)],
            "capture": asdict(capture.counters()) if capture is not None else {},
        }

    def _list(self, reader: Reader) -> dict[str, object]:
        models = []
        for record in self._store.records().values():
            models.append(
                {
                    "model": record.model,
                    "active": record.active.version if record.active else "",
                    "previous": record.previous.version if record.previous else "",
                    "previous_resident": self._service.residents.standby(record.model) is not None,
                    "epoch": record.epoch,
                    "quarantined": [verdict.to_json() for verdict in record.quarantined],
                    "refused": [verdict.to_json() for verdict in record.refused],
                }
            )
        return {"models": models}

    def _describe(self, reader: Reader) -> dict[str, object]:
        resident = self._service.residents.find(reader.text("model", check=model_name), "")
        manifest, counters = resident.manifest, self._service.counters(resident.manifest.name)
        measured = self._activation.measured(resident.digest)
        return {
            "model": manifest.name,
            "version": manifest.version,
            "digest": resident.digest,
            "provider": resident.engine.provider,
            "features_digest": manifest.features_digest,
            "inputs": [spec.to_json() for spec in manifest.inputs],
            "outputs": [spec.to_json() for spec in manifest.outputs],
            "labels": list(manifest.labels),
            "max_batch": manifest.max_batch,
            "resident": list(self._service.residents.versions(manifest.name)),
            "counters": asdict(counters),
            "measured": asdict(measured) if measured is not None else {},
        }

    def _rollback(self, reader: Reader) -> dict[str, object]:
        model, reason = reader.text("model", check=model_name), reader.text("reason", LOCAL_ROLLBACK)
        answer = self._activation.rollback(model, reason)
        return {"state": answer.state.value, "model": model, "version": answer.version, "digest": answer.digest}

    def _unload(self, reader: Reader) -> dict[str, object]:
        """Out of memory until the next start or hand-over; the ledger stays."""
        resident: Resident = self._service.residents.find(reader.text("model", check=model_name), "")
        self._service.residents.unload(resident.manifest.name)
        return {"model": resident.manifest.name, "version": resident.manifest.version}

    def _capture(self, reader: Reader) -> dict[str, object]:
        on = reader.boolean("on")
        if self._service.capture is None:
            raise Refused("Nothing is captured on this device.", "Set captureShare or captureConfidenceBelow.")
        self._service.capture.enable(on)
        return {"on": on}
