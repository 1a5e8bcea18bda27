"""Fleet status as a listener of the account's broker hears it."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybridge_cloud.aws import session
from hybridge_cloud.fleet import enrolment
from hybridge_cloud.sandbox import things
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
