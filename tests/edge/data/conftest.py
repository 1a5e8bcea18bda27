"""Samples, spools and a stand-in for S3 that can be told to fail."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from hybridge_edge.capture import Observation

DIGEST = "sha256:" + "a" * 64
FEATURES_DIGEST = "sha256:" + "b" * 64


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """Make the observation of sample ``number``; its feature row and its id say the number."""

    def make(number: int = 0, confidence: float = 0.9, **changes: object) -> Observation:
        fields: dict[str, object] = {
            "model": "watch",
            "version": "1.0.0",
            "digest": DIGEST,
            "features_digest": FEATURES_DIGEST,
            "sample_id": f"person1/{number}",
            "captured_at_ms": 1_700_000_000_000 + number,
            "features": {"features": np.full(16, number, np.float32)},
            "outputs": {"probabilities": np.linspace(0, 1, 7, dtype=np.float32)},
            "confidence": confidence,
        }
        return Observation(**{**fields, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def sample_bodies(observe: Callable[..., Observation]) -> Callable[[int, int], list[bytes]]:
    """Record bodies of the samples ``first`` to ``first + count - 1``."""

    def make(first: int, count: int) -> list[bytes]:
        return [observe(number).to_sample("random").to_bytes() for number in range(first, first + count)]

    return make


@dataclass
class StandIn:
    """An HTTP server that keeps objects in memory. ``fault`` names what the next request meets, "" nothing.

    Faults: 500, 503, 403 (AccessDenied), expired, skewed, cut (no answer, nothing stored), lost-answer (stored, no
    answer), lies (answers 200 and stores nothing: what a detector must find).
    """

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    requests: int = 0
    fault: Callable[[], str] = lambda: ""
    headers: list[dict[str, str]] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


_XML = {"403": "AccessDenied", "expired": "ExpiredToken", "skewed": "RequestTimeTooSkewed", "503": "SlowDown"}
_STATUS = {"500": 500, "503": 503, "403": 403, "expired": 400, "skewed": 403}


@pytest.fixture
def s3() -> Iterator[StandIn]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            key = unquote(self.path.split("/", 2)[2])
            with lock:
                standin.requests += 1
                standin.headers.append(dict(self.headers))
                fault = standin.fault()
                there = key in standin.objects
                conditional = self.headers.get("If-None-Match") == "*"
                if fault in ("", "lost-answer") and not (there and conditional):
                    standin.objects[key] = data
                    standin.order.append(key)
            if fault in ("cut", "lost-answer"):
                self.close_connection = True
                return
            status = _STATUS.get(fault, 412 if there and conditional and fault == "" else 200)
            body = f"<Error><Code>{_XML[fault]}</Code></Error>".encode() if fault in _XML else b""
            self.send_response(status)
            if fault == "503":
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is killed breaks its pipe
    standin = StandIn(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield standin
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def faults() -> Callable[[int, dict[str, float]], Callable[[], str]]:
    """A seeded source of faults, each with its probability."""

    def make(seed: int, shares: dict[str, float]) -> Callable[[], str]:
        rng = random.Random(seed)

        def draw() -> str:
            value = rng.random()
            for name, share in shares.items():
                value -= share
                if value < 0:
                    return name
            return ""

        return draw

    return make


@pytest.fixture
def spool_folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"
