"""What grpcio itself costs: its server, a handler of ten lines, onnxruntime. python -m peers.servers.bare_server TASK.

No check, no limit, no answer to a mistake: the floor under every Python server over grpcio that runs a model in the
thread that took the call. Listens on the task's port and on the Unix socket ``bare`` beside the task.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy

from hybridge_edge.contract.protos import open_inference_pb2 as messages
from peers.servers.session import INPUT, OUTPUT, Task, open_session

SOCKET = "bare"
_THREADS = 16
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024


def handler(task: Task) -> Any:
    """ModelInfer of the task's models."""
    sessions = {served.name: open_session(served.path) for served in task.models}

    def infer(request: messages.ModelInferRequest, context: Any) -> messages.ModelInferResponse:
        given = numpy.frombuffer(request.raw_input_contents[0], "<f4").reshape(request.inputs[0].shape)
        (scores,) = sessions[request.model_name].run([OUTPUT], {INPUT: given})
        response = messages.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name=OUTPUT, datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        return response

    def stream(requests: Any, context: Any) -> Any:
        for request in requests:
            yield messages.ModelStreamInferResponse(infer_response=infer(request, context))

    read = messages.ModelInferRequest.FromString
    verbs = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer, read, messages.ModelInferResponse.SerializeToString),
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
            stream, read, messages.ModelStreamInferResponse.SerializeToString
        ),
    }
    return grpc.method_handlers_generic_handler("inference.GRPCInferenceService", verbs)


if __name__ == "__main__":
    given = Task.given()
    options = (("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),)
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=options)
    server.add_generic_rpc_handlers((handler(given),))
    server.add_insecure_port(f"127.0.0.1:{given.port}")
    server.add_insecure_port(f"unix:{Path(sys.argv[1]).parent / SOCKET}")
    server.start()
    server.wait_for_termination()
