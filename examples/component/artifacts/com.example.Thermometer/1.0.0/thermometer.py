"""A component that publishes a reading every so often, until it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2
from awsiot.greengrasscoreipc.model import JsonMessage, PublishMessage


def main() -> int:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    every = float(os.environ["EVERY_SECONDS"])  # nucleus lite hands strings
    client = GreengrassCoreIPCClientV2()
    print("ready")
    count = 0
    while not stop.wait(every):
        reading = PublishMessage(json_message=JsonMessage(message={"count": count, "celsius": 21.5}))
        client.publish_to_topic(topic="thermometer/readings", publish_message=reading)
        count += 1
    print(f"stopped after {json.dumps(count)} readings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
