"""What core devices say over MQTT and nobody in the embedded account hears: Greengrass' own jobs, and fleet status.

A client of the account's broker. Status on ``$aws/things/T/greengrassv2/health/json`` is believed of T alone, and the
broker lets nobody but T publish there. Devices are answered on
``$aws/things/T/jobs/$next/namespace-aws-gg-deployment/get`` and ``.../ID/namespace-aws-gg-deployment/update``, and told
of their next job (AWS IoT Jobs, device MQTT API).
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from hybridge_cloud.sandbox import things
from hybridge_cloud.sandbox.control.cores import Cores
from hybridge_cloud.sandbox.control.deployments import Deployments
from hybridge_cloud.sandbox.control.wire import ServiceError, invalid
from hybridge_cloud.sandbox.device.health import HEALTH_TOPIC
from hybridge_cloud.sandbox.device.jobs_link import NAMESPACE, NOTIFY
from hybridge_cloud.sandbox.device.mqtt_link import Broker, MqttLink
from hybridge_edge.contract.errors import HybridgeError

TICK_SECONDS = 1.0
"""How often a device's next job is looked up for news: a thing that joins a group gets its job at once."""
AWAY_SECONDS = 3.0
"""Without a connection for so long, the client is registered again: the account forgets it when it is killed."""
_WAITING = 1000
_DEVICES = 1000
"""Devices that are told of news; those that asked last."""
_BASE = "$aws/things/"
_HEALTH = HEALTH_TOPIC.partition("{}")[2]
_LONGEST_STATUS = 512 * 1024
"""Bytes; AWS IoT Core takes 128 KB."""
_log = logging.getLogger(__name__)


class JobsService:
    """Answers in a thread of its own.

    Args:
        identify: registers the client, and says where the broker is.
    """

    def __init__(self, deployments: Deployments, cores: Cores, identify: Callable[[], Broker | None]) -> None:
        self._deployments = deployments
        self._cores = cores
        self._identify = identify
        self._requests: queue.Queue[tuple[str, bytes] | None] = queue.Queue(_WAITING)
        self._told: OrderedDict[str, str] = OrderedDict()
        self._link: MqttLink | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        self.ring()
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self.ring()
        self._thread.join(AWAY_SECONDS)

    def ring(self) -> None:
        """Devices may have news; from any thread."""
        try:
            self._requests.put_nowait(None)
        except queue.Full:
            pass  # it is awake

    def _run(self) -> None:
        seen = looked = 0.0
        while not self._closing:
            try:
                request = self._requests.get(timeout=TICK_SECONDS)
            except queue.Empty:
                request = None
            now = time.monotonic()
            if self._link is not None and self._link.is_connected():
                seen = now
            elif now - seen > AWAY_SECONDS:
                seen = now
                self._connect()
            try:
                if request is not None and request[0].endswith(_HEALTH):
                    self._hear(*request)
                elif request is not None:
                    self._answer(*request)
                if request is None or now - looked > TICK_SECONDS:
                    looked = now
                    self._tell_all()
            except Exception as error:  # the account may be away in many ways; devices ask again, or by HTTP
                _log.warning("Jobs over MQTT: %s", error)
        if self._link is not None:
            self._link.close()

    def _connect(self) -> None:
        try:
            if self._link is not None:
                self._link.close()
            self._link = None
            broker = self._identify()
            if broker is None:
                return
            self._link = link = MqttLink(broker, things.JOBS, self._arrived)
            link.subscribe(f"{_BASE}+/jobs/$next/{NAMESPACE}/get")
            link.subscribe(f"{_BASE}+/jobs/+/{NAMESPACE}/update")
            link.subscribe(HEALTH_TOPIC.format("+"))
            link.start()
        except Exception as error:  # as above
            _log.warning("Jobs over MQTT cannot begin: %s", error)

    def _arrived(self, topic: str, payload: bytes) -> None:
        try:
            self._requests.put_nowait((topic, payload))
        except queue.Full:
            _log.warning("Too many messages of devices wait; one is dropped")

    def _hear(self, topic: str, payload: bytes) -> None:
        """Take a fleet status. Nobody is told where it is none: it has no answer on AWS either."""
        thing = topic.removeprefix(_BASE).removesuffix(_HEALTH)
        try:
            message = json.loads(payload) if len(payload) <= _LONGEST_STATUS else None
            if not isinstance(message, dict):
                raise invalid(f"The status message of {thing} is no JSON object of at most {_LONGEST_STATUS} bytes.")
            self._cores.report(thing, message)
        except (ServiceError, ValueError, RecursionError) as error:
            _log.warning("A status on %s is not believed: %s", topic, error)

    def _answer(self, topic: str, payload: bytes) -> None:
        thing, _, rest = topic.removeprefix(_BASE).partition("/jobs/")
        job, _, verb = rest.partition(f"/{NAMESPACE}/")
        try:
            request = json.loads(payload or b"{}")
            token = {"clientToken": str(request["clientToken"])} if "clientToken" in request else {}
        except (ValueError, TypeError):
            self._send(f"{topic}/rejected", {"code": "InvalidJson", "message": "The request is no JSON object."})
            return
        try:
            if verb == "get":
                answer = self._next(thing)
            else:
                details = request.get("statusDetails") or {}
                status = self._deployments.report(thing, job, str(request.get("status")), details)
                answer = {"executionState": {"status": status, "statusDetails": details}}
        except ServiceError as error:
            self._send(f"{topic}/rejected", {"code": "InvalidRequest", "message": str(error), **token})
        else:
            self._send(f"{topic}/accepted", {**answer, **token})

    def _next(self, thing: str) -> dict[str, Any]:
        found = self._deployments.next_job(thing)
        self._told[thing] = "" if found is None else str(found["jobId"])
        self._told.move_to_end(thing)
        while len(self._told) > _DEVICES:
            self._told.popitem(last=False)
        if found is None:
            return {}
        return {"execution": {"thingName": thing, "jobId": found["jobId"], "jobDocument": found["document"]}}

    def _tell_all(self) -> None:
        for thing, told in list(self._told.items()):
            try:
                found = self._deployments.next_job(thing)
            except Exception as error:  # a thing that is gone holds up no other; one that is there asks again
                _log.info("Jobs of %s: %s", thing, error)
                del self._told[thing]
                continue
            number = "" if found is None else str(found["jobId"])
            if number != told:
                self._told[thing] = number
                execution = {} if found is None else {"execution": {"jobId": number, "jobDocument": found["document"]}}
                self._send(f"{_BASE}{thing}/jobs/{NOTIFY}", execution)

    def _send(self, topic: str, fields: dict[str, Any]) -> None:
        if self._link is None:
            return
        try:
            self._link.publish(topic, json.dumps({"timestamp": int(time.time()), **fields}).encode(), 1)
        except HybridgeError as error:
            _log.info("%s", error)
