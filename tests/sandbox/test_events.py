"""What the sandbox's account does from the start: objects of devices become messages, and MQTT takes certificates."""

from __future__ import annotations

import json
import ssl
import threading
import uuid
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from hybridge_cloud.sandbox import provision
from hybridge_cloud.sandbox.lifecycle import RunningSandbox


def test_an_object_under_devices_arrives_in_the_queue_and_others_do_not(sandbox: RunningSandbox, client: Any) -> None:
    s3, sqs = client("s3"), client("sqs")
    key = f"devices/thing/batches/watch/{uuid.uuid4().hex}.json"
    s3.put_object(Bucket=sandbox.bucket, Key=f"runs/{uuid.uuid4().hex}", Body=b"{}")
    s3.put_object(Bucket=sandbox.bucket, Key=key, Body=b"{}")
    queue = sqs.get_queue_url(QueueName=provision.QUEUE)["QueueUrl"]
    received = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10, MaxNumberOfMessages=10)["Messages"]
    assert [json.loads(message["Body"])["detail"]["object"]["key"] for message in received] == [key]
    for message in received:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])


def test_the_bucket_is_versioned(sandbox: RunningSandbox, client: Any) -> None:
    assert client("s3").get_bucket_versioning(Bucket=sandbox.bucket)["Status"] == "Enabled"


def test_a_message_that_is_never_handled_ends_in_the_dead_letter_queue(sandbox: RunningSandbox, client: Any) -> None:
    sqs = client("sqs")
    queue = sqs.get_queue_url(QueueName=provision.QUEUE)["QueueUrl"]
    policy = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])["Attributes"]["RedrivePolicy"]
    assert json.loads(policy)["deadLetterTargetArn"].endswith(provision.DEAD_LETTER_QUEUE)


def connect(folder: Path, thing: str = "", certificate: Path | None = None) -> str:
    """Connect with what ``mqtt.json`` names, publish to oneself, and return what happened."""
    topic = f"sensors/{thing or 'x'}/windows"
    given = json.loads((folder / "mqtt.json").read_text())
    context = ssl.create_default_context(cafile=given["ca"])
    chain = certificate or Path(given["certificate"])
    context.load_cert_chain(chain, chain.with_name("private.key"))
    outcome, done = [""], threading.Event()
    one = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=thing or f"test-{uuid.uuid4().hex}", reconnect_on_failure=False
    )
    one.tls_set_context(context)

    def connected(who: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            outcome[0] = str(reason)
            done.set()
        else:
            who.subscribe(topic, 1)

    def message(_who: mqtt.Client, _data: Any, received: mqtt.MQTTMessage) -> None:
        outcome[0] = received.payload.decode()
        done.set()

    one.on_connect = connected
    one.on_message = message
    one.on_subscribe = lambda who, *_: who.publish(topic, "arrived", 1)
    one.connect(given["host"], given["port"])
    one.loop_start()
    try:
        assert done.wait(20)
    finally:
        one.disconnect()
        one.loop_stop()
    return outcome[0]


def test_the_sensors_client_reaches_the_broker_over_mutual_tls(sandbox: RunningSandbox) -> None:
    assert connect(sandbox.folder.sensors) == "arrived"


def test_a_certificate_that_was_withdrawn_is_refused(registered_device: Any, client: Any) -> None:
    assert connect(registered_device.folder, registered_device.thing) == "arrived"
    arn = (registered_device.folder / "certificate.arn").read_text()
    client("iot").update_certificate(certificateId=arn.rpartition("/")[2], newStatus="INACTIVE")
    assert "authorized" in connect(registered_device.folder, registered_device.thing).lower()


def test_a_shadow_that_a_device_writes_over_mqtt_is_read_over_https(registered_device: Any, client: Any) -> None:
    given = json.loads((registered_device.folder / "mqtt.json").read_text())
    thing = registered_device.thing
    one = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=thing)
    one.tls_set(given["ca"], given["certificate"], given["key"])
    one.connect(given["host"], given["port"])
    one.loop_start()
    try:
        document = json.dumps({"state": {"reported": {"version": "1.0.0"}}})
        one.publish(f"$aws/things/{thing}/shadow/name/hybridge/update", document, 1).wait_for_publish(10)
    finally:
        one.disconnect()
        one.loop_stop()
    shadow = json.load(client("iot-data").get_thing_shadow(thingName=thing, shadowName="hybridge")["payload"])
    assert shadow["state"]["reported"] == {"version": "1.0.0"}
