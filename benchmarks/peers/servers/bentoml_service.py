"""A BentoML service with ONNX Runtime inside: bentoml serve peers.servers.bentoml_service:Sessions.

A request is {"model": NAME, "data": base64 of little-endian float32}, an answer a list of numbers.
"""

from __future__ import annotations

import base64
import os

import bentoml
import numpy

from peers.servers.session import INPUT, OUTPUT, Task, open_session

TASK_VARIABLE = "PEERS_TASK"


@bentoml.service(workers=1)
class Sessions:
    def __init__(self) -> None:
        task = Task.read(os.environ[TASK_VARIABLE])
        self._models = {served.name: (open_session(served.path), served.shape) for served in task.models}

    @bentoml.api  # type: ignore[untyped-decorator]
    def infer(self, model: str, data: str) -> list[float]:
        session, shape = self._models[model]
        array = numpy.frombuffer(base64.b64decode(data), "<f4").reshape(1, *shape)
        scores: list[float] = session.run([OUTPUT], {INPUT: array})[0][0].tolist()
        return scores
