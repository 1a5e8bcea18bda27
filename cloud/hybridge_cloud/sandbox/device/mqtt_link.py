"""The device's MQTT connection to the account, over mutual TLS, for what components publish to AWS IoT Core."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybridge_edge.contract.errors import InvalidDocument, Unavailable

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

_QUEUE = 1000
"""Messages that wait while the broker is away; more are refused."""
_KEEPALIVE = 30
_RETRY_FIRST, _RETRY_LONGEST = 1, 10
_ACKNOWLEDGED_WITHIN = 5.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the account's broker is; the files are absolute paths, or all "" for a broker without TLS."""

    host: str
    port: int
    ca: str
    certificate: str
    key: str

    @classmethod
    def read(cls, path: Path) -> Broker | None:
        """Read ROOT/mqtt.json; None where there is none."""
        try:
            fields = json.loads(path.read_bytes())
            return cls(
                str(fields["host"]),
                int(fields["port"]),
                str(fields.get("ca") or ""),
                str(fields.get("certificate") or ""),
                str(fields.get("key") or ""),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidDocument(f"{path} does not say where the broker is.", "Add the device again.") from None


class MqttLink:
    """One connection that is kept up; subscriptions are made again after each reconnect.

    Args:
        deliver: called with (topic, payload) on the connection's own thread.
    """

    def __init__(self, broker: Broker, thing: str, deliver: Callable[[str, bytes], None]) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self._deliver = deliver
        self._lock = threading.Lock()
        self._filters: dict[str, int] = {}
        self._acknowledged: dict[int, threading.Event] = {}
        self._client: Client = Client(CallbackAPIVersion.VERSION2, client_id=thing)
        self._client.max_queued_messages_set(_QUEUE)
        self._client.reconnect_delay_set(_RETRY_FIRST, _RETRY_LONGEST)
        if broker.ca:
            self._client.tls_set(broker.ca, broker.certificate or None, broker.key or None)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE)

    def start(self) -> None:
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def is_connected(self) -> bool:
        return self._client.is_connected()

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Hand a message to the connection. Raises Unavailable when it cannot be queued."""
        from paho.mqtt.enums import MQTTErrorCode

        try:
            code = self._client.publish(topic, payload, qos).rc
        except ValueError as error:
            raise Unavailable(f"MQTT refuses the topic {topic[:80]!r}: {error}.") from None
        queued = code == MQTTErrorCode.MQTT_ERR_NO_CONN and qos > 0
        if code != MQTTErrorCode.MQTT_ERR_SUCCESS and not queued:
            raise Unavailable(f"The message on {topic[:80]!r} was not queued: {code.name}.", "Try again later.")

    def subscribe(self, topic_filter: str) -> None:
        """Ask for a filter once more; waits, bounded, for the broker's word when connected. Blocks."""
        with self._lock:
            self._filters[topic_filter] = self._filters.get(topic_filter, 0) + 1
            if self._filters[topic_filter] > 1 or not self._client.is_connected():
                return
            done = threading.Event()
            _, number = self._client.subscribe(topic_filter, 1)
            if number is not None:
                self._acknowledged[number] = done
        done.wait(_ACKNOWLEDGED_WITHIN)

    def unsubscribe(self, topic_filter: str) -> None:
        """Take back one ``subscribe``."""
        with self._lock:
            left = self._filters.get(topic_filter, 0) - 1
            if left > 0:
                self._filters[topic_filter] = left
            elif self._filters.pop(topic_filter, None) is not None and self._client.is_connected():
                self._client.unsubscribe(topic_filter)

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            _log.warning("The broker refuses the connection: %s", reason)
            return
        _log.info("Connected to the broker")
        with self._lock:
            for topic_filter in self._filters:
                client.subscribe(topic_filter, 1)

    def _on_disconnect(self, _client: Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        _log.info("Disconnected from the broker: %s", reason)

    def _on_subscribe(self, _client: Client, _data: Any, number: int, _reasons: Any, _properties: Any) -> None:
        with self._lock:
            done = self._acknowledged.pop(number, None)
        if done is not None:
            done.set()

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._deliver(message.topic, bytes(message.payload))
