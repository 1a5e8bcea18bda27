"""The way from a program on the device to its models::

    from hybridge_edge.client import Client

    with Client.connect() as client:
        answer = client.infer("watch", {"window": window})
        print(answer.outputs["probabilities"], answer.version)

``AsyncClient`` has the same verbs for asyncio; ``hybridge_edge.testing`` has doubles of both, for tests without a
server. docs/client.md says what is tried again, what a deadline covers and how a stream is used underneath.
"""

from hybridge_edge.client.aio import AsyncClient
from hybridge_edge.client.answers import InferenceAnswer, answer_of
from hybridge_edge.client.sequences import AsyncClientSequence, ClientSequence
from hybridge_edge.client.sync import Client
from hybridge_edge.client.targets import ENDPOINT_VARIABLE, endpoint
from hybridge_edge.client.tls import ClientTls

__all__ = [
    "ENDPOINT_VARIABLE",
    "AsyncClient",
    "AsyncClientSequence",
    "Client",
    "ClientSequence",
    "ClientTls",
    "InferenceAnswer",
    "answer_of",
    "endpoint",
]
