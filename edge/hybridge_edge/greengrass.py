"""Greengrass IPC: the only module that knows it. Without a nucleus there is no connection, and callers do without.

Every call is bounded in time. What a nucleus denies or lacks (nucleus lite answers ServiceError for many operations)
comes back as Refused; a nucleus that does not answer as Unavailable. Tensors never travel here: nucleus lite closes
the connection on a message of more than 10,000 bytes.
"""

from __future__ import annotations

import concurrent.futures
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable

CONNECT_SECONDS = 10.0
CALL_SECONDS = 10.0
MAX_MESSAGE_BYTES = 5 * 1024
"""Of a payload; base64 and headers come on top, and 7.3 KB of binary was too much for nucleus lite."""
MESSAGE_CHARACTERS = 300
"""Of what is said about a configuration that is refused."""
_SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_LITE_SOCKET = "gg-ipc.socket"
_TOKEN = "SVCUID"  # noqa: S105  the name of a variable
_log = logging.getLogger(__name__)


def has_nucleus() -> bool:
    """Whether this process was started by a nucleus."""
    return bool(os.environ.get(_SOCKET) and os.environ.get(_TOKEN))


def is_lite() -> bool:
    """Whether this process was started by nucleus lite: its socket has a name that classic's has not."""
    return has_nucleus() and Path(os.environ[_SOCKET]).name == _LITE_SOCKET


def connect(lost: Callable[[], None] | None = None) -> Nucleus | None:
    """A connection to this device's nucleus, or None where the process is no Greengrass component.

    Args:
        lost: called once, in a thread of the SDK, when the connection ends, also by ``close``. Its subscriptions are
            gone then.

    Raises:
        Unavailable: there is a nucleus and it does not answer within CONNECT_SECONDS.
    """
    if not has_nucleus():
        return None
    import awsiot.greengrasscoreipc as ipc
    from awsiot.eventstreamrpc import LifecycleHandler
    from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

    class Life(LifecycleHandler):  # type: ignore[misc]  # the SDK has no types
        def on_disconnect(self, reason: Exception | None) -> None:
            if lost is not None:
                lost()

    try:
        client = ipc.connect(lifecycle_handler=Life(), timeout=CONNECT_SECONDS)
        return Nucleus(GreengrassCoreIPCClientV2(client=client))
    except Exception as error:  # the SDK raises whatever its transport meets
        raise Unavailable(
            f"The Greengrass nucleus does not answer: {_said(error)}.", "Check the nucleus of this device."
        ) from None


class Nucleus:
    """A connection to the nucleus; safe to share between threads. Use as a context, or close it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __enter__(self) -> Nucleus:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._client.close(executor_wait=False).result(CALL_SECONDS)
        except Exception as error:  # a connection that the nucleus has closed already
            _log.debug("closing: %s", _said(error))

    def configuration(self, key_path: Sequence[str] = ()) -> Mapping[str, object]:
        """This component's configuration below ``key_path``; an empty mapping where nothing is there."""
        try:
            answer = self._call(self._client.get_configuration_async(key_path=list(key_path)), "GetConfiguration")
        except Refused as error:
            if "ResourceNotFound" in error.message:
                return {}
            raise
        value = answer.value
        return value if isinstance(value, dict) else {}

    def on_configuration(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called, in a thread of the SDK, whenever the component's configuration changes."""
        answered, _ = self._client.subscribe_to_configuration_update_async(
            key_path=[],
            on_stream_event=lambda _: changed(),
            on_stream_error=_log_stream_error,
            on_stream_closed=lambda: None,
        )
        self._call(answered, "SubscribeToConfigurationUpdate")

    def publish_to_iot_core(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 1 through the nucleus; returns once the nucleus has taken it, which may keep it offline."""
        self._check_size(topic, payload)
        call = self._client.publish_to_iot_core_async(topic_name=topic, qos="1", payload=payload)
        self._call(call, f"PublishToIoTCore on {topic}")

    def subscribe_to_iot_core(self, topic: str, received: Callable[[str, bytes], None]) -> None:
        """Have ``received`` called, in a thread of the SDK, with topic and payload of each message from the cloud.

        Args:
            topic: a topic or an MQTT filter, QoS 1; the recipe's accessControl must name it.
        """

        def event(arrived: Any) -> None:
            if arrived.message is not None:
                received(str(arrived.message.topic_name), bytes(arrived.message.payload or b""))

        answered, _ = self._client.subscribe_to_iot_core_async(
            topic_name=topic,
            qos="1",
            on_stream_event=event,
            on_stream_error=_log_stream_error,
            on_stream_closed=lambda: None,
        )
        self._call(answered, f"SubscribeToIoTCore on {topic}")

    def on_update(self, objection: Callable[[], float]) -> None:
        """Be asked before a deployment changes this device (classic; lite answers ServiceError: Refused).

        Args:
            objection: called, in a thread of the SDK, before each update: seconds for which it must wait, 0 for none.
                The nucleus asks again after them.
        """

        def event(asked: Any) -> None:
            before = asked.pre_update_event
            if before is None:
                return
            seconds = objection()
            call = self._client.defer_component_update_async(
                deployment_id=before.deployment_id,
                recheck_after_ms=max(0, int(seconds * 1000)),
                message="a model is being switched, or calls are ending" if seconds else None,
            )
            self._answer(call, "DeferComponentUpdate")

        answered, _ = self._client.subscribe_to_component_updates_async(
            on_stream_event=event, on_stream_error=_log_stream_error, on_stream_closed=lambda: None
        )
        self._call(answered, "SubscribeToComponentUpdates")

    def on_validation(self, fault: Callable[[Mapping[str, object]], str]) -> None:
        """Judge each configuration before a deployment gives it to this component (classic; lite: Refused).

        Args:
            fault: called, in a thread of the SDK, with the configuration: what is wrong with it, "" for nothing.
        """

        def event(asked: Any) -> None:
            from awsiot.greengrasscoreipc import model

            wanted = asked.validate_configuration_update_event
            if wanted is None:
                return
            wrong = fault(wanted.configuration if isinstance(wanted.configuration, dict) else {})
            report = model.ConfigurationValidityReport(
                status="REJECTED" if wrong else "ACCEPTED",
                deployment_id=wanted.deployment_id,
                message=wrong[:MESSAGE_CHARACTERS] or None,
            )
            call = self._client.send_configuration_validity_report_async(configuration_validity_report=report)
            self._answer(call, "SendConfigurationValidityReport")

        answered, _ = self._client.subscribe_to_validate_configuration_updates_async(
            on_stream_event=event, on_stream_error=_log_stream_error, on_stream_closed=lambda: None
        )
        self._call(answered, "SubscribeToValidateConfigurationUpdates")

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish to the components of this device."""
        self._check_size(topic, payload)
        from awsiot.greengrasscoreipc import model

        message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        self._call(
            self._client.publish_to_topic_async(topic=topic, publish_message=message), f"PublishToTopic on {topic}"
        )

    def subscribe(self, topic: str, received: Callable[[bytes], None]) -> None:
        """Have ``received`` called, in a thread of the SDK, with each message of this device on a topic."""

        def event(message: Any) -> None:
            if message.binary_message is not None:
                received(bytes(message.binary_message.message or b""))

        answered, _ = self._client.subscribe_to_topic_async(
            topic=topic, on_stream_event=event, on_stream_error=_log_stream_error, on_stream_closed=lambda: None
        )
        self._call(answered, f"SubscribeToTopic on {topic}")

    def _answer(self, call: Any, what: str) -> None:
        """Wait for a call made in an event's handler, where nobody can be told but the log."""
        try:
            self._call(call, what)
        except HybridgeError as error:
            _log.warning("%s", error)

    def _check_size(self, topic: str, payload: bytes) -> None:
        if len(payload) > MAX_MESSAGE_BYTES:
            raise Refused(f"A message of {len(payload)} bytes for {topic} is over {MAX_MESSAGE_BYTES}.", "Send less.")

    def _call(self, call: Any, what: str) -> Any:
        from awsiot.eventstreamrpc import ConnectionClosedError, StreamClosedError
        from awsiot.greengrasscoreipc import model

        try:
            return call.result(CALL_SECONDS)
        except (model.GreengrassCoreIPCError, model.UnauthorizedError) as error:
            raise Refused(
                f"The nucleus refused {what}: {_said(error)}.", "Check the recipe's accessControl, and the nucleus."
            ) from None
        except (ConnectionClosedError, StreamClosedError, concurrent.futures.TimeoutError) as error:
            raise Unavailable(f"The nucleus did not answer {what}: {_said(error)}.", "Check the nucleus.") from None
        except Exception as error:  # awscrt's own errors have no common class but Exception
            raise Unavailable(f"{what} failed: {_said(error)}.", "Check the nucleus.") from None


def _log_stream_error(error: Exception) -> bool:
    _log.warning("A subscription of the nucleus ended: %s", _said(error))
    return True


def _said(error: BaseException) -> str:
    text = str(getattr(error, "message", "") or error)
    return f"{type(error).__name__} {text}".strip()[:300]


def component_configuration() -> Mapping[str, object]:
    """This component's whole configuration, read once.

    Raises:
        Unavailable: there is no nucleus, or it does not answer.
    """
    nucleus = connect()
    if nucleus is None:
        raise Unavailable("There is no Greengrass nucleus to ask for a configuration.", "Give the settings as flags.")
    with nucleus:
        return nucleus.configuration()
