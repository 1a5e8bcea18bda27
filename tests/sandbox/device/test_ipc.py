"""Greengrass IPC as the unmodified awsiotsdk meets it, with a real broker behind it."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from awsiot.eventstreamrpc import AccessDeniedError, ConnectionClosedError, StreamClosedError
from awsiot.greengrasscoreipc import model
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

from hybridge_cloud.sandbox.device.eventstream import CONNECT, PRELUDE_BYTES, Message, decode, length
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_edge import greengrass
from hybridge_edge.contract.errors import Refused

SECONDS = 10
ACCESS = {
    "aws.greengrass.ipc.mqttproxy": {"m": {"operations": ["*"], "resources": ["hybridge/*"]}},
    "aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["local/*"]}},
}


class Talk:
    """A device with two components that say their tokens, and IPC clients that speak for them."""

    def __init__(self, account: Any, start: Callable[..., Any], wait_until: Callable[..., Any], mode: Mode) -> None:
        name = f"Ipc.{mode.name.title()}"
        self.account, self.group, self.mode = account, account.group(), mode
        self.one, self.two = f"{name}.One", f"{name}.Two"
        script = "echo $SVCUID $AWS_CONTAINER_CREDENTIALS_FULL_URI; exec sleep 600"
        configuration = {"accessControl": ACCESS, "deep": {"number": 3, "list": [1, 2]}}
        account.publish(self.one, "1.0.0", script, configuration=configuration)
        exchange = {"aws.greengrass.TokenExchangeService": (">=2.0.0", "HARD")}
        account.publish(self.two, "1.0.0", script, dependencies=exchange)
        self.device = start(mode, self.group)
        self.deploy()
        self.said = {
            component: wait_until(lambda component=component: self.device.log(component).split())
            for component in (self.one, self.two)
        }
        self.socket = str(self.device.core.device.socket)

    def deploy(self, merge: Any = None) -> None:
        deployment = self.account.deploy(self.group, {self.one: ("1.0.0", merge), self.two: "1.0.0"})
        assert self.account.outcome(self.device.thing, deployment)[0] == "SUCCEEDED"

    @contextlib.contextmanager
    def client(self, component: str = "") -> Iterator[GreengrassCoreIPCClientV2]:
        token = self.said[component or self.one][0]
        found = GreengrassCoreIPCClientV2(_connected(self.socket, token))
        try:
            yield found
        finally:
            found.close()


def _connected(path: str, token: str) -> Any:
    from awsiot.greengrasscoreipc import connect

    return connect(ipc_socket=path, authtoken=token, timeout=SECONDS)


@pytest.fixture(scope="module", params=list(Mode))
def talk(
    request: pytest.FixtureRequest, account: Any, start_once: Callable[..., Any], wait_until: Callable[..., Any]
) -> Talk:
    return Talk(account, start_once, wait_until, request.param)


def test_a_wrong_token_is_not_let_in(talk: Talk) -> None:
    with pytest.raises(AccessDeniedError):
        _connected(talk.socket, "wrong")


def test_configuration_is_read_whole_by_path_and_of_others(talk: Talk) -> None:
    with talk.client() as client:
        whole = client.get_configuration().value
        assert whole["deep"] == {"number": 3, "list": [1, 2]}
        assert client.get_configuration(key_path=["deep"]).value == {"number": 3, "list": [1, 2]}
        assert client.get_configuration(key_path=["deep", "number"]).value == {"number": 3}
        assert client.get_configuration(component_name=talk.two).value == {}
        for request in ({"key_path": ["missing"]}, {"component_name": "Not.There"}):
            with pytest.raises(model.ResourceNotFoundError):
                client.get_configuration(**request)


def test_a_component_updates_its_own_configuration_and_watchers_hear_of_it(talk: Talk) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    with talk.client() as client, talk.client(talk.two) as watcher:
        _, stream = watcher.subscribe_to_configuration_update(
            component_name=talk.one, key_path=["counter"], on_stream_event=heard.put
        )
        client.update_configuration(key_path=["other"], value_to_merge={"x": 1})
        client.update_configuration(key_path=["counter"], value_to_merge={"n": 7})
        event = heard.get(timeout=SECONDS).configuration_update_event
        assert (event.component_name, event.key_path[0]) == (talk.one, "counter")
        assert client.get_configuration(key_path=["counter"]).value == {"n": 7}
        stream.close().result(SECONDS)
        client.update_configuration(key_path=["counter"], value_to_merge={"n": 8})
        client.update_state(state="RUNNING")
        assert heard.empty()


def test_local_messages_reach_subscribers_that_the_policy_allows(talk: Talk) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    with talk.client() as client:
        client.subscribe_to_topic(topic="local/+/x", on_stream_event=heard.put)
        message = model.PublishMessage(json_message=model.JsonMessage(message={"a": 1}))
        client.publish_to_topic(topic="local/b/x", publish_message=message)
        event = heard.get(timeout=SECONDS)
        assert (event.json_message.message, event.json_message.context.topic) == ({"a": 1}, "local/b/x")
        raw = model.PublishMessage(binary_message=model.BinaryMessage(message=b"\0\xff"))
        client.publish_to_topic(topic="local/c/x", publish_message=raw)
        assert heard.get(timeout=SECONDS).binary_message.message == b"\0\xff"
        with pytest.raises(model.UnauthorizedError):
            client.publish_to_topic(topic="elsewhere", publish_message=message)
        with pytest.raises(model.UnauthorizedError):
            client.subscribe_to_topic(topic="#", on_stream_event=heard.put)


def test_messages_go_to_the_accounts_broker_and_come_back(talk: Talk) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    topic = f"hybridge/{talk.device.thing}/echo"
    with talk.client() as client, talk.client(talk.two) as stranger:
        client.subscribe_to_iot_core(topic_name=topic, qos="1", on_stream_event=heard.put)
        client.publish_to_iot_core(topic_name=topic, qos="1", payload=b"\x01hello")
        message = heard.get(timeout=SECONDS).message
        assert (message.topic_name, message.payload) == (topic, b"\x01hello")
        with pytest.raises(model.UnauthorizedError):
            stranger.publish_to_iot_core(topic_name=topic, qos="1", payload=b"")
        with pytest.raises(model.InvalidArgumentsError):
            client.publish_to_iot_core(topic_name="hybridge/#", qos="1", payload=b"")


def test_other_operations_answer_a_service_error_and_the_connection_lives_on(talk: Talk) -> None:
    with talk.client() as client:
        lacking = [client.list_components, lambda: client.get_secret_value(secret_id="x")]
        updates = [
            lambda: client.subscribe_to_component_updates(on_stream_event=print),
            lambda: client.defer_component_update(deployment_id="x"),
        ]
        for call in [*lacking, *(updates if talk.mode is Mode.LITE else [])]:
            with pytest.raises(model.ServiceError):
                call()
        client.update_state(state="RUNNING")
        with pytest.raises(model.InvalidArgumentsError):
            client.update_state(state="TIRED")
        if talk.mode is Mode.CLASSIC:  # who did not subscribe has no say
            with pytest.raises(model.InvalidArgumentsError):
                client.defer_component_update(deployment_id="x")


def test_the_edge_publishes_to_the_cloud_and_hears_from_it(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    topic = f"hybridge/{talk.device.thing}/edge"
    monkeypatch.setenv("AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT", talk.socket)
    monkeypatch.setenv("SVCUID", talk.said[talk.one][0])
    nucleus = greengrass.connect()
    assert nucleus is not None
    with nucleus:
        nucleus.subscribe_to_iot_core(topic, lambda *message: heard.put(message))
        nucleus.publish_to_iot_core(topic, b"\xffreport")
        assert heard.get(timeout=SECONDS) == (topic, b"\xffreport")
        with pytest.raises(Refused, match="accessControl"):
            nucleus.publish_to_iot_core("elsewhere", b"")
        with pytest.raises(Refused, match="over 5120"):
            nucleus.publish_to_iot_core(topic, b"x" * 6000)


def test_a_message_over_10000_bytes_ends_the_connection_on_lite_only(talk: Talk) -> None:
    message = model.PublishMessage(json_message=model.JsonMessage(message={"a": "x" * 10_000}))
    with talk.client() as client, talk.client() as other:
        if talk.mode is Mode.CLASSIC:
            client.publish_to_topic(topic="local/x", publish_message=message)
        else:
            with pytest.raises((StreamClosedError, ConnectionClosedError)):
                client.publish_to_topic(topic="local/x", publish_message=message)
        other.update_state(state="RUNNING")


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 64,
        Message(CONNECT, payload=b"[]").encode(),
        Message(CONNECT, payload=b'{"authToken":""}').encode(),
        Message(0, 1, 0, {"operation": "aws.greengrass#GetConfiguration"}, b"{}").encode(),
    ],
)
def test_what_is_no_connection_is_closed(talk: Talk, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(talk.socket)
        client.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(1024):
                answer += chunk
        if answer:
            assert length(answer[:PRELUDE_BYTES]) == len(answer)
            assert decode(answer).flags == 0, "not accepted"
    with talk.client() as other:
        other.update_state(state="RUNNING")


def test_credentials_are_given_to_components_alone(talk: Talk) -> None:
    token, uri = talk.said[talk.two]
    # Lite tells the address only to components that depend on the token exchange service.
    assert len(talk.said[talk.one]) == (2 if talk.mode is Mode.CLASSIC else 1)
    with urllib.request.urlopen(urllib.request.Request(uri, headers={"Authorization": token})) as answer:
        found = json.load(answer)
    assert (found["AccessKeyId"], found["SecretAccessKey"]) == ("sandbox", "sandbox")
    assert found["Token"]
    assert found["Expiration"].endswith("Z")
    for given, status in (({}, 403), ({"Authorization": "wrong"}, 403)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(uri, headers=given))
        assert refused.value.code == status


def test_a_deployment_tells_watchers_what_it_changed(talk: Talk) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    with talk.client(talk.two) as watcher:
        watcher.subscribe_to_configuration_update(component_name=talk.one, on_stream_event=heard.put)
        talk.deploy(merge={"deep": {"number": 4}})
        event = heard.get(timeout=SECONDS).configuration_update_event
        assert (event.component_name, event.key_path) == (talk.one, ["deep", "number"])
