"""What IPC operations do: configuration, messages, state. Those that change the device are in administration.py."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hybridge_cloud.sandbox.device.administration import Administration
from hybridge_cloud.sandbox.device.authorize import MQTT, PUBSUB, allowed, matches
from hybridge_cloud.sandbox.device.components import Components
from hybridge_cloud.sandbox.device.configuration import Tree, changed_paths, find
from hybridge_cloud.sandbox.device.ipc import Answer, Denied, Stream
from hybridge_cloud.sandbox.device.mqtt_link import MqttLink

_STATES = ("RUNNING", "ERRORED")


@dataclass(frozen=True, slots=True)
class Configurations:
    """How operations reach the components' configurations.

    Args:
        read: the configuration of a component, None where it is not on the device.
        update: merge a value into a component's own configuration at a path.
    """

    read: Callable[[str], Tree | None]
    update: Callable[[str, tuple[str, ...], Any], None]


@dataclass(frozen=True, slots=True)
class _Listener:
    """A stream and what it waits for: a topic filter, or a path in a component's configuration."""

    stream: Stream
    topic: str = ""
    others_only: bool = False
    component: str = ""
    path: tuple[str, ...] = ()


class Operations:
    """Serves the operations of all components; lives on the event loop's thread."""

    def __init__(self, components: Components, configurations: Configurations, administration: Administration) -> None:
        self._components = components
        self._configurations = configurations
        self.mqtt: MqttLink | None = None
        """None where the device has no broker."""
        self._local: set[_Listener] = set()
        self._core: set[_Listener] = set()
        self._watching: set[_Listener] = set()
        self._known = {
            "GetConfiguration": self._get_configuration,
            "UpdateConfiguration": self._update_configuration,
            "SubscribeToConfigurationUpdate": self._watch_configuration,
            "PublishToTopic": self._publish,
            "SubscribeToTopic": self._subscribe,
            "PublishToIoTCore": self._publish_core,
            "SubscribeToIoTCore": self._subscribe_core,
            "UpdateState": self._update_state,
            **administration.handlers(),
        }
        self._refusal = administration.refusal

    async def __call__(self, name: str, request: Mapping[str, Any], stream: Stream) -> Answer:
        operation = self._known.get(name)
        if operation is None:
            raise self._refusal(name)
        return await operation(request, stream)

    def configured(self, component: str, before: Tree, after: Tree) -> None:
        """Tell whoever watches what changed in a component's configuration."""
        for path in changed_paths(before, after):
            event = {"configurationUpdateEvent": {"componentName": component, "keyPath": list(path)}}
            for listener in list(self._watching):
                length = min(len(path), len(listener.path))
                if listener.component == component and path[:length] == listener.path[:length]:
                    listener.stream.event("ConfigurationUpdateEvents", event)

    def arrived(self, topic: str, payload: bytes) -> None:
        """Deliver a message from AWS IoT Core."""
        message = {"message": {"topicName": topic, "payload": base64.b64encode(payload).decode()}}
        for listener in list(self._core):
            if matches(listener.topic, topic):
                listener.stream.event("IoTCoreMessage", message)

    async def _get_configuration(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        component = str(request.get("componentName") or stream.component)
        path = _path(request)
        tree = self._configurations.read(component)
        present, value = (False, None) if tree is None else find(tree, path)
        if not present:
            raise Denied("ResourceNotFoundError", f"{component} has no configuration at /{'/'.join(path)}.")
        if not isinstance(value, dict):
            value = {path[-1]: value}
        return Answer("GetConfigurationResponse", {"componentName": component, "value": value})

    async def _update_configuration(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        if "valueToMerge" not in request:
            raise Denied("InvalidArgumentsError", "There is no valueToMerge.")
        self._configurations.update(stream.component, _path(request), request["valueToMerge"])
        return Answer("UpdateConfigurationResponse", {})

    async def _watch_configuration(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        component = str(request.get("componentName") or stream.component)
        if self._configurations.read(component) is None:
            raise Denied("ResourceNotFoundError", f"{component} is not on this device.")
        _listen(self._watching, _Listener(stream, component=component, path=_path(request)))
        return Answer("SubscribeToConfigurationUpdateResponse", {}, stays_open=True)

    async def _publish(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        topic = _topic(request, "topic", wildcards=False)
        self._authorize(stream, PUBSUB, "PublishToTopic", topic)
        given = request["publishMessage"]
        kind = "jsonMessage" if given.get("jsonMessage") is not None else "binaryMessage"
        message = {kind: {"message": given[kind].get("message"), "context": {"topic": topic}}}
        for listener in list(self._local):
            own = listener.stream.component == stream.component
            if matches(listener.topic, topic) and not (listener.others_only and own):
                listener.stream.event("SubscriptionResponseMessage", message)
        return Answer("PublishToTopicResponse", {})

    async def _subscribe(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        topic = _topic(request, "topic", wildcards=True)
        self._authorize(stream, PUBSUB, "SubscribeToTopic", topic)
        others_only = request.get("receiveMode") == "RECEIVE_MESSAGES_FROM_OTHERS"
        _listen(self._local, _Listener(stream, topic, others_only))
        return Answer("SubscribeToTopicResponse", {}, stays_open=True)

    async def _publish_core(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        topic = _topic(request, "topicName", wildcards=False)
        self._authorize(stream, MQTT, "PublishToIoTCore", topic)
        payload = base64.b64decode(request.get("payload") or "", validate=True)
        self._link().publish(topic, payload, _qos(request))
        return Answer("PublishToIoTCoreResponse", {})

    async def _subscribe_core(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        topic = _topic(request, "topicName", wildcards=True)
        self._authorize(stream, MQTT, "SubscribeToIoTCore", topic)
        _qos(request)
        link = self._link()
        listener = _Listener(stream, topic)
        _listen(self._core, listener, lambda: link.unsubscribe(topic))
        await asyncio.to_thread(link.subscribe, topic)
        return Answer("SubscribeToIoTCoreResponse", {}, stays_open=True)

    async def _update_state(self, request: Mapping[str, Any], stream: Stream) -> Answer:
        if request.get("state") not in _STATES:
            raise Denied("InvalidArgumentsError", f"A state is one of {', '.join(_STATES)}.")
        self._components.report(stream.component, request["state"])
        return Answer("UpdateStateResponse", {})

    def _authorize(self, stream: Stream, service: str, operation: str, resource: str) -> None:
        tree = self._configurations.read(stream.component) or {}
        if not allowed(tree, service, f"aws.greengrass#{operation}", resource):
            raise Denied(
                "UnauthorizedError",
                f"{stream.component} may not {operation} on {resource}: its accessControl has no policy for it.",
            )

    def _link(self) -> MqttLink:
        if self.mqtt is None:
            raise Denied("ServiceError", "This core device has no MQTT connection.")
        return self.mqtt


def _listen(listeners: set[_Listener], listener: _Listener, closed: Callable[[], None] | None = None) -> None:
    listeners.add(listener)

    def close() -> None:
        listeners.discard(listener)
        if closed is not None:
            closed()

    listener.stream.on_close = close


def _path(request: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(part) for part in request.get("keyPath") or ())


def _topic(request: Mapping[str, Any], key: str, *, wildcards: bool) -> str:
    topic = request.get(key)
    if not isinstance(topic, str) or not topic or "\0" in topic or (not wildcards and set("+#") & set(topic)):
        raise Denied("InvalidArgumentsError", f"{key} is not a topic.")
    return topic


def _qos(request: Mapping[str, Any]) -> int:
    qos = str(request.get("qos", "0"))
    if qos not in ("0", "1"):
        raise Denied("InvalidArgumentsError", "qos is 0 or 1.")
    return int(qos)
