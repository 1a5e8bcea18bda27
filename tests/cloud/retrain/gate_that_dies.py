"""Run one turn of a gate that kills itself at the nth effect: before or after each conditional put and each start.

usage: gate_that_dies.py PIPELINE QUEUE EFFECT
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hybridge_cloud.aws import pipeline as codepipeline
from hybridge_cloud.aws.queue import Queue
from hybridge_cloud.aws.s3 import Bucket
from hybridge_cloud.retrain.claim import Starter
from hybridge_cloud.retrain.decision import Policy
from hybridge_cloud.retrain.gate import Gate


def main(pipeline: str, queue: str, effect: int) -> None:
    left = effect

    def count() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            count()
            answer = real(*given, **named)
            count()
            return answer

        return call

    Bucket.put = deadly(Bucket.put)  # type: ignore[method-assign]
    codepipeline.start = deadly(codepipeline.start)
    bucket = Bucket.from_environment()
    policy = Policy(minimum_samples=40, minimum_labelled_share=0.0, minimum_interval_seconds=0, device_share=1.0)
    starter = Starter(bucket, pipeline, "dies", lambda: 1_700_000_000_000)
    gate = Gate(bucket, Queue(queue), pipeline, policy, starter, lambda _: None)
    gate.sweep()
    gate.turn()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
