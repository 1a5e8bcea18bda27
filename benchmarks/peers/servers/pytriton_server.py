"""PyTriton with ONNX Runtime inside: python -m peers.servers.pytriton_server TASK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from peers.servers.session import INPUT, OUTPUT, Served, Task, open_session

MAX_BATCH = 32


def infer_with(served: Served) -> Callable[..., Any]:
    session = open_session(served.path)

    @batch  # type: ignore[untyped-decorator]
    def infer(**inputs: Any) -> dict[str, Any]:
        return {OUTPUT: session.run([OUTPUT], {INPUT: inputs[INPUT]})[0]}

    return infer  # type: ignore[no-any-return]


if __name__ == "__main__":
    task = Task.given()
    loopback = "127.0.0.1"
    config = TritonConfig(
        http_address=loopback,
        http_port=task.second_port,
        grpc_address=loopback,
        grpc_port=task.port,
        metrics_address=loopback,
        metrics_port=task.third_port,
    )
    with Triton(config=config) as triton:
        for served in task.models:
            triton.bind(
                model_name=served.name,
                infer_func=infer_with(served),
                inputs=[Tensor(name=INPUT, dtype=numpy.float32, shape=served.shape)],
                outputs=[Tensor(name=OUTPUT, dtype=numpy.float32, shape=(served.classes,))],
                config=ModelConfig(max_batch_size=MAX_BATCH),
            )
        triton.serve()
