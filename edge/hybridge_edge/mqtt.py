"""A connection to an MQTT broker that stays: it reconnects by itself and subscribes again each time."""

from __future__ import annotations

import logging
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hybridge_edge.contract.errors import Overloaded, Refused, Unavailable, UsageError

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30
RECONNECT_MIN_SECONDS = 1
RECONNECT_MAX_SECONDS = 60
FLUSH_SECONDS = 5.0
MAX_UNSENT_MESSAGES = 1000
"""Messages of QoS 1 that wait for the broker; above it ``publish`` refuses."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker listens, and what to show it.

    Attributes:
        ca: certificate authorities to trust, a PEM file; None: the connection is not encrypted.
        certificate, key: of this client, PEM files; both or neither.
    """

    host: str
    port: int
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise UsageError("A client's certificate and key belong together.", "Give both or neither.")
        if self.certificate is not None and self.ca is None:
            raise UsageError("A client's certificate needs the broker's CA.", "Give brokerCa too.")

    def context(self) -> ssl.SSLContext | None:
        """How to encrypt, or None. Raises UsageError where a file holds no certificate or key."""
        if self.ca is None:
            return None
        try:
            context = ssl.create_default_context(cafile=str(self.ca))
            if self.certificate is not None:
                context.load_cert_chain(str(self.certificate), str(self.key))
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"The broker's certificates cannot be read: {error}.", "Correct their paths.") from None
        return context


class Connection:
    """A client of one broker. Callbacks run in the client's own thread and must not wait.

    Args:
        client_id: one per connection at a broker; the later one throws the earlier one out.
        topic: subscribed with QoS 1 at every connect; "" for none. received: called with each message.
    """

    def __init__(
        self, broker: Broker, client_id: str, topic: str = "", received: Callable[[bytes], None] | None = None
    ) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._broker = broker
        self._topic = topic
        self._received = received
        self._ready = threading.Event()
        self._refused = ""
        self._taken = threading.Condition()
        self._unsent = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        context = broker.context()
        if context is not None:
            self._client.tls_set_context(context)
        self._client.max_queued_messages_set(MAX_UNSENT_MESSAGES)
        self._client.reconnect_delay_set(RECONNECT_MIN_SECONDS, RECONNECT_MAX_SECONDS)
        self._client.connect_timeout = CONNECT_SECONDS
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def listen(self, topic: str, received: Callable[[bytes], None]) -> None:
        """Subscribe to this topic instead of the one given at first; before ``start``."""
        self._topic, self._received = topic, received

    def start(self) -> None:
        """Begin to connect, and go on trying for ever."""
        self._client.connect_async(self._broker.host, self._broker.port, KEEPALIVE_SECONDS)
        self._client.loop_start()

    @property
    def ready(self) -> bool:
        """Whether the connection stands, and its subscription with it."""
        return self._ready.is_set()

    def wait_ready(self, seconds: float) -> None:
        """Wait until the connection stands. Raises Unavailable after ``seconds``."""
        if not self._ready.wait(seconds):
            reason = f": {self._refused}" if self._refused else ""
            raise Unavailable(
                f"The MQTT broker {self._broker.host}:{self._broker.port} does not answer{reason}.",
                "Check brokerHost, brokerPort and the certificates.",
            )

    def publish(self, topic: str, payload: bytes) -> None:
        """Hand a message of QoS 1 over to be sent, now or once the broker is back.

        Raises:
            Overloaded: MAX_UNSENT_MESSAGES wait already; this one is not kept. Refused: no such topic can be.
        """
        from paho.mqtt.enums import MQTTErrorCode

        with self._taken:
            self._unsent += 1
        try:
            refused = self._client.publish(topic, payload, qos=1).rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        except ValueError as error:  # wildcards, or over what MQTT carries
            self._on_publish()
            raise Refused(f"Nothing can be published on {topic[:80]!r}: {error}.", "Correct the topic.") from None
        if refused:
            self._on_publish()
            raise Overloaded(f"{MAX_UNSENT_MESSAGES} messages wait for the MQTT broker.", "Check the broker.")

    def close(self) -> None:
        """Let the broker take what waits, for FLUSH_SECONDS where it is there, and end the connection."""
        with self._taken:
            wait = FLUSH_SECONDS if self._client.is_connected() else 0.0
            if not self._taken.wait_for(lambda: self._unsent == 0, wait):
                _log.warning("%d messages were not sent to the MQTT broker.", self._unsent)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._note(str(reason))
        elif self._topic:
            client.subscribe(self._topic, qos=1)
        else:
            self._ready.set()

    def _on_connect_fail(self, client: Any, userdata: Any) -> None:
        self._note(str(sys.exc_info()[1] or "no connection"))  # paho calls this while it handles the error

    def _on_subscribe(self, client: Any, userdata: Any, mid: Any, reasons: Any, properties: Any) -> None:
        failed = [str(reason) for reason in reasons if reason.is_failure]
        if failed:
            self._note(f"the subscription to {self._topic} was refused ({failed[0]})")
        else:
            self._ready.set()

    def _on_publish(self, *_: Any) -> None:
        with self._taken:
            self._unsent -= 1
            self._taken.notify_all()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._ready.clear()
        if reason.is_failure:
            self._note(str(reason))

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        if self._received is not None:
            self._received(bytes(message.payload))

    def _note(self, reason: str) -> None:
        if reason != self._refused:
            _log.warning("MQTT broker %s:%d: %s", self._broker.host, self._broker.port, reason)
        self._refused = reason
