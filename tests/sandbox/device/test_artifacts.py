"""Artifacts from a store whose connection breaks: what has arrived is kept, and the rest is asked for."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hybridge_cloud.sandbox.device import artifacts
from hybridge_cloud.sandbox.device.layout import Layout
from hybridge_cloud.sandbox.device.mode import MEBIBYTE, Mode, limits_of
from hybridge_cloud.sandbox.device.recipe import Artifact, Recipe
from hybridge_edge.contract.errors import Refused, Unavailable

DATA = bytes(range(256)) * (3 * MEBIBYTE // 256)


@dataclass
class Breaking:
    """An S3 object behind plain HTTP whose answers end after ``cut`` bytes; 0 for whole ones."""

    cut: int = 0
    asked: list[str] = field(default_factory=list)
    data: bytes = DATA


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    breaking = Breaking()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(breaking.data)))
            self.end_headers()

        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            breaking.asked.append(wanted)
            first = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
            body = breaking.data[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: breaking.cut or len(body)])
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    yield breaking
    server.shutdown()
    server.server_close()
    thread.join()


def recipe(data: bytes = DATA) -> Recipe:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return Recipe("T.One", "1.0.0", {}, (), (), {}, (Artifact("s3://bucket/big.bin", digest, "NONE", False),))


def test_a_broken_download_goes_on_where_it_ended(store: Breaking, tmp_path: Path) -> None:
    layout = Layout(tmp_path, "ipc.socket")
    store.cut = MEBIBYTE + 1000
    artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
    file = layout.artifacts("T.One", "1.0.0") / "big.bin"
    assert file.read_bytes() == DATA
    assert store.asked[0] == ""
    starts = [int(range_.removeprefix("bytes=").removesuffix("-")) for range_ in store.asked[1:]]
    assert starts == sorted(set(starts)), "each attempt asks for less"
    assert starts[0] >= MEBIBYTE
    store.asked.clear()
    artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
    assert store.asked == [], "what is there and right is not asked for"


def test_a_later_deployment_goes_on_too_and_a_store_that_never_ends_is_unavailable(
    store: Breaking, tmp_path: Path
) -> None:
    layout = Layout(tmp_path, "ipc.socket")
    store.cut = 100_000
    with pytest.raises(Unavailable):
        artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
    part = layout.artifacts("T.One", "1.0.0") / ".big.bin.part"
    have = part.stat().st_size
    assert have > 0
    store.cut, store.asked = 0, []
    artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
    assert store.asked == [f"bytes={have}-"]
    assert not part.exists()


def test_a_rest_of_another_object_is_noticed_by_the_digest(store: Breaking, tmp_path: Path) -> None:
    layout = Layout(tmp_path, "ipc.socket")
    part = layout.artifacts("T.One", "1.0.0") / ".big.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    with pytest.raises(Refused, match="SHA-256"):
        artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
    assert not part.exists()
    artifacts.fetch(recipe(), layout, limits_of(Mode.LITE))
