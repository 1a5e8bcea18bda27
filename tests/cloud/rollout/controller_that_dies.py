"""Drive a rollout and kill this process where it writes a ring's deployment: ``before`` or ``after`` the call.

usage: controller_that_dies.py FLEET ROLLOUT before|after
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from hybridge_cloud.aws import greengrass
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.rollout.controller import Controller


def main(fleet: str, rollout: str, when: str) -> None:
    real = greengrass.create_deployment

    def deadly(*given: Any) -> str:
        if when == "after":
            real(*given)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process goes on")

    greengrass.create_deployment = deadly
    Controller(Bucket.from_environment(), fleet, rollout).run(threading.Event(), 0.2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
