"""What a model takes, as a server on the network says it; on the device itself the management socket says more."""

from __future__ import annotations

import grpc

from hybridge_edge.client.answers import error_of
from hybridge_edge.client.targets import OPTIONS, SERVICE
from hybridge_edge.client.tls import ClientTls
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.tensors import TensorSpec


def inputs_over(target: str, tls: ClientTls | None, model: str, timeout_s: float) -> tuple[TensorSpec, ...]:
    """The raw inputs of a model's active version.

    Raises:
        ModelNotFound: the server has no such model. Unavailable: it does not answer, or not to this client.
        Refused: the client's own files cannot be used.
    """
    if tls is None:
        channel = grpc.insecure_channel(target, options=OPTIONS)
    else:
        channel = grpc.secure_channel(target, tls.credentials(), options=tls.options())
    with channel:
        ask = channel.unary_unary(
            f"{SERVICE}ModelMetadata",
            messages.ModelMetadataRequest.SerializeToString,
            messages.ModelMetadataResponse.FromString,
        )
        try:
            said = ask(messages.ModelMetadataRequest(name=model), timeout=timeout_s)
        except grpc.RpcError as error:
            raise error_of(error, target) from None
    return tuple(TensorSpec(one.name, one.datatype, tuple(one.shape)) for one in said.inputs)
