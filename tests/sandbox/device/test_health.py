"""Fleet status as a listener of the account's broker hears it."""

from __future__ import annotations

import json
import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.aws import session
from hybridge_cloud.fleet import enrolment
from hybridge_cloud.sandbox import things
from hybridge_cloud.sandbox.device.health import HEALTH_TOPIC
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_cloud.sandbox.device.mqtt_link import Broker, MqttLink

SECONDS = 15
EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}],
}


def listener(account: Any, folder: Path, heard: Callable[[str, bytes], None]) -> MqttLink:
    """A client that may hear all things, as the service behind a real account does."""
    folder.mkdir()
    with session.using(account.sandbox.environment):
        things.identify(account.sandbox.ports, folder, "status-listener")
        enrolment.identify("status-listener", {"status-listener": EVERYTHING}, folder)
    broker = Broker.read(folder / "mqtt.json")
    assert broker is not None
    return MqttLink(broker, "status-listener", heard)


def test_status_messages_say_what_the_page_of_a_core_says(
    account: Any, start: Callable[..., Any], private: Path, wait_until: Any
) -> None:
    heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
    link = listener(account, private / "listener", lambda *message: heard.put(message))
    link.start()
    wait_until(link.is_connected)
    link.subscribe("$aws/things/+/greengrassv2/health/json")
    try:
        group = account.group()
        account.publish("Health.One", "1.0.0", "exec sleep 600")
        device = start(Mode.LITE, group)
        deployment = account.deploy(group, {"Health.One": "1.0.0"})
        messages = []
        while not any("deploymentInformation" in message for message in messages):
            topic, payload = heard.get(timeout=SECONDS)
            if topic == f"$aws/things/{device.thing}/greengrassv2/health/json":
                messages.append(json.loads(payload))
    finally:
        link.close()
    first, last = messages[0], messages[-1]
    assert (first["trigger"], first["messageType"], first["thing"]) == ("NUCLEUS_LAUNCH", "COMPLETE", device.thing)
    numbers = [message["sequenceNumber"] for message in messages]
    assert numbers == sorted(set(numbers))
    assert last["trigger"] == "THING_GROUP_DEPLOYMENT"
    assert last["deploymentInformation"]["deploymentId"] == deployment
    assert last["deploymentInformation"]["status"] == "SUCCEEDED"
    (component,) = [item for item in last["components"] if item["componentName"] == "Health.One"]
    assert (component["version"], component["status"], component["isRoot"]) == ("1.0.0", "RUNNING", True)
    assert component["fleetConfigArns"][0].endswith(f":configuration:thinggroup/{group}:1")
    assert {"ggcVersion", "platform", "architecture", "runtime", "timestamp", "overallDeviceStatus"} <= last.keys()


@pytest.fixture
def thing(account: Any, private: Path, wait_until: Any) -> Iterator[tuple[str, MqttLink]]:
    """A thing that is registered and speaks MQTT alone."""
    name = account.enrol(private, account.group())
    broker = Broker.read(private / "mqtt.json")
    assert broker is not None
    link = MqttLink(broker, name, lambda topic, payload: None)
    link.start()
    wait_until(link.is_connected)
    yield name, link
    link.close()


def status(thing: str, number: int, state: str, **changed: Any) -> bytes:
    component = {"componentName": "Health.Two", "version": "1.0.0", "status": state, "isRoot": True}
    message = {
        "ggcVersion": "2.18.0", "platform": "linux", "architecture": "amd64", "runtime": "aws_nucleus_classic",
        "thing": thing, "sequenceNumber": number, "timestamp": 1, "messageType": "COMPLETE",
        "trigger": "COMPONENT_STATUS_CHANGE", "overallDeviceStatus": "HEALTHY", "components": [component], **changed,
    }  # fmt: skip
    return json.dumps(message).encode()


def states(account: Any, thing: str) -> list[str]:
    try:
        found = account.greengrass.list_installed_components(coreDeviceThingName=thing)["installedComponents"]
    except account.greengrass.exceptions.ResourceNotFoundException:
        return []
    return [one["lifecycleState"] for one in found]


def test_a_status_that_came_by_mqtt_alone_is_what_the_account_shows_and_an_old_one_is_not(
    account: Any, thing: tuple[str, MqttLink], wait_until: Any
) -> None:
    name, link = thing

    def says(*messages: bytes) -> None:
        for message in messages:
            link.publish(HEALTH_TOPIC.format(name), message, 1)

    def shows(state: str) -> Callable[[], bool]:
        def shown() -> bool:
            if not states(account, name):
                says(status(name, 5, "RUNNING"))  # again until the service has come to the broker
            return states(account, name) == [state]

        return shown

    wait_until(shows("RUNNING"))
    says(status(name, 5, "BROKEN"), status(name, 4, "BROKEN", trigger="NUCLEUS_LAUNCH"), b"[]", b"{", b"")
    says(status(name, 6, "NO", overallDeviceStatus="FINE"), status(name, 7, "FINISHED"))
    wait_until(shows("FINISHED"))
    says(status(name, 1, "STARTING", trigger="NUCLEUS_LAUNCH", timestamp=int(time.time() * 1000) + 1000))
    wait_until(shows("STARTING"))  # a device that was made anew counts from 1


def test_a_status_in_another_things_name_is_not_believed(
    account: Any, thing: tuple[str, MqttLink], wait_until: Any
) -> None:
    name, link = thing
    with tempfile.TemporaryDirectory(prefix="hyb") as folder:
        other = account.enrol(Path(folder), account.group())

    def says(topic_of: str, message: bytes) -> None:
        link.publish(HEALTH_TOPIC.format(topic_of), message, 1)

    def heard() -> bool:
        says(name, status(name, 1, "STARTING"))
        return states(account, name) == ["STARTING"]

    wait_until(heard)  # the service listens
    says(name, status(other, 30, "BROKEN"))
    says(name, status(name, 20, "RUNNING"))  # which would be an old one, had that been believed
    wait_until(lambda: states(account, name) == ["RUNNING"])
    says(other, status(other, 1, "BROKEN"))
    wait_until(lambda: not link.is_connected())  # the broker throws out who speaks there and is not that thing
    assert states(account, other) == []
