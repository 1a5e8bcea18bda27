"""Where the system gives no more threads the server answers with those it has, and is whole again afterwards (F33)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybridge_edge import runtime
from hybridge_edge import trust as trusting
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.http2.connection import Limits
from hybridge_edge.http2.listener import Listener
from hybridge_edge.serving import statuses
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.server import InferenceServer
from hybridge_edge.serving.service import Service

CALLERS = 8
ASK = """
import sys, threading
import grpc
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.client.targets import quiet_grpc
quiet_grpc()
answers = []
def ask():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        live = channel.unary_unary("/inference.GRPCInferenceService/" + sys.argv[2])
        for _ in range(5):
            try:
                live(b"", timeout=5)
                answers.append("OK")
            except grpc.RpcError as error:
                answers.append(error.code().name)
threads = [threading.Thread(target=ask) for _ in range(int(sys.argv[3]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(*answers)
"""
"""Many callers from another process. An inference of no model is told NOT_FOUND: that is an answer too."""


@contextmanager
def no_more_threads() -> Iterator[None]:
    """The system refuses every further thread of this process: no stack of such a size is to be had."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)


def ask(target: str, verb: str, callers: int = CALLERS) -> list[str]:
    command = [sys.executable, "-c", ASK, target, verb, str(callers)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout.split()


@pytest.fixture
def server(short: Path, packages: Callable, trust: TrustDocument) -> Iterator[InferenceServer]:
    built = packages("1.0.0")
    service = Service(Gate(2), lambda model, digest: None)
    engine = load(trusting.open_package(built.folder, trust), 1)
    service.residents.switch(Resident(built.manifest, built.digest, engine))
    server = InferenceServer(service, short / "i.sock", None, "0.1.0", lambda: True)
    server.start()
    yield server
    server.stop(0)


@pytest.mark.parametrize("verb", ["ModelInfer", "ServerLive", "ServerMetadata"])
def test_without_more_threads_everybody_is_answered(server: InferenceServer, verb: str) -> None:
    target = f"unix:{server.socket}"
    with no_more_threads():
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=int).start()
        answers = ask(target, verb)
    assert len(answers) == 5 * CALLERS
    assert not {"DEADLINE_EXCEEDED", "UNAVAILABLE", "UNKNOWN"} & set(answers), answers
    assert ask(target, "ServerLive") == ["OK"] * 5 * CALLERS


def test_with_no_thread_at_all_it_says_so(short: Path) -> None:
    listener = Listener(runtime.listen(short / "none.sock", 1), "none", {}, statuses.status, Limits(1024, 1), 1)
    with no_more_threads(), pytest.raises(RuntimeError, match="can't start new thread"):
        listener.start()
