"""KServe's Python model server with ONNX Runtime inside: python -m peers.servers.kserve_server TASK."""

from __future__ import annotations

from typing import Any

import grpc
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from peers.servers.session import INPUT, OUTPUT, Served, Task, open_session


class SessionModel(Model):  # type: ignore[misc]
    def __init__(self, served: Served) -> None:
        super().__init__(served.name)
        self._session = open_session(served.path)
        self.ready = True

    async def predict(self, payload: InferRequest, *others: Any, **more: Any) -> InferResponse:
        (scores,) = self._session.run([OUTPUT], {INPUT: payload.inputs[0].as_numpy()})
        output = InferOutput(name=OUTPUT, shape=list(scores.shape), datatype="FP32")
        output.set_data_from_numpy(scores, binary_data=True)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=[output])


def stay_on_loopback() -> None:
    """KServe listens on every address and has no setting for it; a benchmark does not."""
    make_config, make_server = uvicorn.Config, grpc.aio.server

    def config(*arguments: Any, **options: Any) -> Any:
        return make_config(*arguments, **{**options, "host": "127.0.0.1"})

    def server(*arguments: Any, **options: Any) -> Any:
        made = make_server(*arguments, **options)
        add = made.add_insecure_port
        made.add_insecure_port = lambda address: add(address.replace("[::]", "127.0.0.1"))
        return made

    uvicorn.Config = config  # type: ignore[assignment, misc]
    grpc.aio.server = server


if __name__ == "__main__":
    task = Task.given()
    stay_on_loopback()
    ModelServer(http_port=task.second_port, grpc_port=task.port, enable_grpc=True).start(
        [SessionModel(served) for served in task.models]
    )
