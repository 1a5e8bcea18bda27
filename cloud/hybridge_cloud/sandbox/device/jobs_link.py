"""Deployment jobs by IoT Jobs over MQTT, in the namespace that Greengrass has there (AWS IoT Jobs, device MQTT API).

A device is told on ``jobs/notify-next-namespace-aws-gg-deployment``, asks for its next job, and says how it stands.
Where the broker is away, or nobody answers there, the control service is asked by HTTP instead.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from hybridge_cloud.sandbox.device.cloud_link import Cloud, Job, Resolved, read_job
from hybridge_cloud.sandbox.device.mqtt_link import MqttLink
from hybridge_edge.contract.errors import InvalidDocument, Refused, Unavailable

NAMESPACE = "namespace-aws-gg-deployment"
NOTIFY = f"notify-next-{NAMESPACE}"
ANSWER_SECONDS = 3.0
_LONGEST_ANSWER = 1024 * 1024
_log = logging.getLogger(__name__)


class JobsLink:
    """The account of a device whose jobs come by MQTT; everything else is asked of ``http``."""

    def __init__(self, http: Cloud, thing: str) -> None:
        self._http = http
        self._base = f"$aws/things/{thing}/jobs/"
        self.link: MqttLink | None = None
        """None until the device has its connection."""
        self._subscribed = False
        self._news = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[threading.Event, list[tuple[str, Mapping[str, Any]]]]] = {}
        self.thing_groups = http.thing_groups
        self.report_health = http.report_health

    def close(self) -> None:
        self._closed = True
        self._news.set()
        self._http.close()

    def resolve(
        self, name: str, version: str, requirements: Mapping[str, str], platform: Mapping[str, str]
    ) -> Resolved:
        return self._http.resolve(name, version, requirements, platform)

    def arrived(self, topic: str, payload: bytes) -> None:
        """Look at a message, on the connection's thread."""
        if topic == self._base + NOTIFY:
            self._news.set()
        if not topic.startswith(self._base):
            return
        kind = topic.rpartition("/")[2]
        try:
            fields = json.loads(payload) if len(payload) <= _LONGEST_ANSWER else None
        except ValueError:
            fields = None
        if isinstance(fields, dict) and kind in ("accepted", "rejected"):
            with self._lock:
                waiting = self._waiting.get(str(fields.get("clientToken")))
            if waiting is not None:
                waiting[1].append((kind, fields))
                waiting[0].set()

    def next_job(self, wait: int) -> Job | None:
        """The next deployment, or None when ``wait`` seconds brought none. Raises as the HTTP call does."""
        self._news.clear()
        answer = self._ask(f"$next/{NAMESPACE}/get", {})
        if answer is None:
            return self._http.next_job(wait)
        execution = answer[1].get("execution")
        if answer[0] == "accepted" and isinstance(execution, dict) and execution.get("jobId"):
            number = str(execution["jobId"])
            try:
                return read_job(number, execution.get("jobDocument"))
            except (InvalidDocument, KeyError, TypeError, AttributeError) as error:
                self.report_job(number, "REJECTED", {"deployment-failure-cause": f"The job document lacks {error}"})
                return None
        if not self._closed:
            self._news.wait(wait)
        return None

    def report_job(self, job: str, status: str, details: Mapping[str, str]) -> None:
        """Say how a job stands. Raises Refused where the account wants no word on it."""
        answer = self._ask(f"{job}/{NAMESPACE}/update", {"status": status, "statusDetails": dict(details)})
        if answer is None:
            self._http.report_job(job, status, details)
        elif answer[0] == "rejected":
            raise Refused(f"The account rejects the word on job {job}: {answer[1].get('message')}.")

    def _ask(self, topic: str, request: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """Ask and wait; None where the broker is away or nobody answers in time."""
        link = self.link
        if link is None or self._closed or not link.is_connected():
            return None
        if not self._subscribed:
            for topic_filter in (NOTIFY, f"$next/{NAMESPACE}/get/+", f"+/{NAMESPACE}/update/+"):
                link.subscribe(self._base + topic_filter)
            self._subscribed = True
        token, event = uuid.uuid4().hex, threading.Event()
        answers: list[tuple[str, Mapping[str, Any]]] = []
        with self._lock:
            self._waiting[token] = (event, answers)
        try:
            link.publish(self._base + topic, json.dumps({**request, "clientToken": token}).encode(), 1)
            event.wait(ANSWER_SECONDS)
        except Unavailable as error:
            _log.info("%s", error)
        finally:
            with self._lock:
                del self._waiting[token]
        return answers[0] if answers else None
