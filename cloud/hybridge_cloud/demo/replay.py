"""The people of the recordings, moving again: windows over real MQTT to the devices' sensor pipelines.

    python -m hybridge_cloud.demo.replay --project examples/watch --split 0 --broker mqtt.json --rate 40 DEVICE...

The part ``replay`` of the split (the first 60 % of each recording of people the model has not seen) is shared out
among the devices. Windows carry a sample id and no label. QoS 1: what the broker did not acknowledge is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from hybridge_cloud.demo.broker import read
from hybridge_cloud.training.project import load_project
from hybridge_cloud.training.task import Samples, Task
from hybridge_edge.contract import names
from hybridge_edge.contract.errors import HybridgeError, Refused, Unavailable
from hybridge_edge.contract.tensors import Tensor
from hybridge_edge.contract.window import Window
from hybridge_edge.mqtt import Broker

ACKNOWLEDGE_SECONDS = 60.0


def windows(task: Task, samples: Samples) -> list[bytes]:
    """Each row as the message a sensor would send."""
    messages = []
    for row in range(len(samples)):
        tensors = []
        for spec in task.inputs:
            value = np.ascontiguousarray(samples.inputs[spec.name][row], "<f4")
            tensors.append(Tensor(spec.name, "FP32", value.shape, value.tobytes()))
        messages.append(Window(str(samples.ids[row]), tuple(tensors)).to_bytes())
    return messages


def share_out(samples: Samples, devices: list[str]) -> list[str]:
    """The device of each row: a group (one recording) stays on one device."""
    groups = {group: index for index, group in enumerate(dict.fromkeys(samples.groups.tolist()))}
    return [devices[groups[group] % len(devices)] for group in samples.groups.tolist()]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="hybridge-replay", description="Replay recordings over MQTT.")
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--broker", type=Path, required=True, help="mqtt.json: host, port, ca, certificate, key")
    parser.add_argument("--rate", type=float, default=40.0, help="windows a second over all devices")
    parser.add_argument("devices", nargs="+")
    options = parser.parse_args(arguments)
    try:
        task = load_project(options.project).task()
        samples = task.dataset(options.split).replay
        if samples is None:
            raise Refused("The project has no part to replay.", "Give its dataset() a part 'replay'.")
        broker = read(options.broker)
        publish(broker, windows(task, samples), share_out(samples, options.devices), options.rate)
    except HybridgeError as error:
        print(f"replay: {error}", file=sys.stderr)
        return error.exit_code
    print(len(samples))
    return 0


def publish(broker: Broker, messages: list[bytes], devices: list[str], rate: float) -> None:
    """Send each message to its device's topic at a steady rate. Raises Refused where the broker did not take all."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="hybridge-replay")
    context = broker.context()
    if context is not None:
        client.tls_set_context(context)
    client.max_queued_messages_set(len(messages))
    try:
        client.connect(broker.host, broker.port)
    except OSError as error:
        raise Unavailable(
            f"The MQTT broker {broker.host}:{broker.port} does not answer ({error}).", "Is the sandbox up?"
        ) from None
    client.loop_start()
    try:
        begin = time.monotonic()
        sent = []
        for index, (message, device) in enumerate(zip(messages, devices, strict=True)):
            wait = begin + index / rate - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            sent.append(client.publish(names.windows_topic(device), message, qos=1))
        deadline = time.monotonic() + ACKNOWLEDGE_SECONDS
        for info in sent:
            info.wait_for_publish(max(0.0, deadline - time.monotonic()))
        missing = sum(not info.is_published() for info in sent)
        if missing:
            raise Refused(f"The broker did not acknowledge {missing} of {len(sent)} windows.", "Look at its log.")
    finally:
        client.disconnect()
        client.loop_stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
