"""Deployments come by IoT Jobs over the account's broker, in Greengrass' namespace, and by HTTP where that fails."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.sandbox.device import jobs_link
from hybridge_cloud.sandbox.device.cloud_link import CloudLink
from hybridge_cloud.sandbox.device.jobs_link import NAMESPACE, NOTIFY
from hybridge_cloud.sandbox.device.mode import Mode
from hybridge_cloud.sandbox.device.mqtt_link import Broker, MqttLink

SECONDS = 15


@pytest.fixture
def client(account: Any, private: Path, wait_until: Any) -> Any:
    """A registered thing's own MQTT connection, and what it hears: the wire itself."""
    group = account.group()
    thing = account.enrol(private, group)
    heard: queue.Queue[tuple[str, Any]] = queue.Queue()
    broker = Broker.read(private / "mqtt.json")
    assert broker is not None
    link = MqttLink(broker, thing, lambda topic, payload: heard.put((topic, json.loads(payload))))
    link.start()
    wait_until(link.is_connected)
    base = f"$aws/things/{thing}/jobs/"
    for topic in (NOTIFY, f"$next/{NAMESPACE}/get/+", f"+/{NAMESPACE}/update/+"):
        link.subscribe(base + topic)

    def ask(topic: str, request: dict[str, Any]) -> tuple[str, Any]:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:  # the service may still be on its way to the broker
            link.publish(base + topic, json.dumps(request).encode(), 1)
            try:
                return heard.get(timeout=2)
            except queue.Empty:
                continue
        raise AssertionError("nobody answers")

    yield group, base, heard, ask
    link.close()


def test_a_device_is_told_asks_and_says_how_a_job_stands_as_on_a_real_account(account: Any, client: Any) -> None:
    group, base, heard, ask = client
    account.publish("Jobs.Wire", "1.0.0", "true")
    topic, nothing = ask(f"$next/{NAMESPACE}/get", {"clientToken": "one"})
    assert topic == f"{base}$next/{NAMESPACE}/get/accepted"
    assert (nothing["clientToken"], "execution" in nothing) == ("one", False)
    deployment = account.deploy(group, {"Jobs.Wire": ("1.0.0", {"a": "1"})})
    topic, told = heard.get(timeout=SECONDS)
    assert topic == base + NOTIFY
    job = told["execution"]["jobId"]
    _, answer = ask(f"$next/{NAMESPACE}/get", {"clientToken": "two"})
    assert answer["execution"]["jobId"] == job
    document = answer["execution"]["jobDocument"]
    assert document["deploymentId"] == deployment
    assert document["components"]["Jobs.Wire"]["configurationUpdate"]["merge"] == {"a": "1"}
    topic, answer = ask(f"{job}/{NAMESPACE}/update", {"status": "IN_PROGRESS", "clientToken": "three"})
    assert topic == f"{base}{job}/{NAMESPACE}/update/accepted"
    assert answer["executionState"]["status"] == "IN_PROGRESS"
    for wrong, status in ((job, "TIRED"), ("no-such-job", "SUCCEEDED")):
        topic, answer = ask(f"{wrong}/{NAMESPACE}/update", {"status": status, "clientToken": "four"})
        assert topic == f"{base}{wrong}/{NAMESPACE}/update/rejected"
        assert answer["message"]


def test_a_core_device_takes_its_jobs_from_there_and_by_http_when_nobody_answers(
    account: Any, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    polls: list[int] = []
    plain = CloudLink.next_job

    def counted(self: CloudLink, wait: int) -> Any:
        polls.append(wait)
        return plain(self, wait)

    monkeypatch.setattr(CloudLink, "next_job", counted)
    group = account.group()
    account.publish("Jobs.One", "1.0.0", "exec sleep 600")
    account.publish("Jobs.One", "2.0.0", "exec sleep 600")
    device = start(Mode.CLASSIC, group)
    wait_until(lambda: device.core._jobs._subscribed)
    assert account.outcome(device.thing, account.deploy(group, {"Jobs.One": "1.0.0"}))[0] == "SUCCEEDED"
    polls.clear()
    time.sleep(1)
    assert polls == [], "no long poll while jobs are answered over MQTT"
    monkeypatch.setattr(jobs_link, "ANSWER_SECONDS", 0.0)  # nobody is quick enough now
    assert account.outcome(device.thing, account.deploy(group, {"Jobs.One": "2.0.0"}))[0] == "SUCCEEDED"
    assert polls
