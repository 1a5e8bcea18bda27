"""LitServe with ONNX Runtime inside, all models in its one worker: python -m peers.servers.litserve_server TASK.

A request is {"model": NAME, "data": base64 of little-endian float32}, an answer {"scores": [numbers]}.
"""

from __future__ import annotations

import base64
from typing import Any

import litserve
import numpy

from peers.servers.session import INPUT, OUTPUT, Task, open_session


class SessionAPI(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self._models = {served.name: (open_session(served.path), served.shape) for served in Task.given().models}

    def decode_request(self, request: dict[str, str]) -> tuple[str, Any]:
        name = request["model"]
        shape = self._models[name][1]
        return name, numpy.frombuffer(base64.b64decode(request["data"]), "<f4").reshape(1, *shape)

    def predict(self, given: tuple[str, Any]) -> Any:
        name, array = given
        return self._models[name][0].run([OUTPUT], {INPUT: array})[0]

    def encode_response(self, scores: Any) -> dict[str, list[float]]:
        return {OUTPUT: scores[0].tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(SessionAPI(), accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=Task.given().port, log_level="warning", generate_client_file=False)
