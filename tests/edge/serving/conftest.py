"""Servers run as the processes they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridge_edge import lines
from hybridge_edge.contract.handover import Handover
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.runtime import Endpoint

READY_WITHIN_S = 30.0


@dataclass
class Server:
    """``hybridge-edge serve`` as a process, in a short runtime folder of its own."""

    store: Path
    runtime: Path
    environment: dict[str, str]
    arguments: list[str]
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def start(self, *, wait: bool = True, **environment: str) -> Server:
        (self.runtime / "endpoint.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(self.store), *self.arguments]
        self.process = subprocess.Popen(
            command, env={**self.environment, **environment}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        if wait:
            self.wait()
        return self

    def wait(self, not_pid: int = 0) -> Endpoint:
        """Until endpoint.json names a worker that answers (and is not ``not_pid``)."""
        until = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                pytest.fail(f"serve ended with {self.process.returncode}: {self.errors()}")
            if (self.runtime / "endpoint.json").exists():
                endpoint = Endpoint.read(self.runtime)
                if endpoint.pid != not_pid and _alive(endpoint.pid):
                    return endpoint
            time.sleep(0.02)
        pytest.fail("serve did not become ready")

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.read(self.runtime)

    def say(self, **request: object) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", json.dumps(request).encode() + b"\n", 60))

    def hand_over(self, handover: Handover) -> dict:
        return json.loads(lines.ask(self.runtime / "management.sock", handover.to_line(), 60))

    def errors(self) -> str:
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def kill_tree(self) -> None:
        """kill -9 of the supervisor and its worker, as a power cut would."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        _, self.said = self.process.communicate(timeout=30)
        return self.process.returncode


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def server(short: Path, trust: TrustDocument) -> Iterator[Server]:
    """A server that is not started yet; whatever is left of it is killed at the end."""
    trust_file = short / "trust.json"
    trust_file.write_bytes(trust.to_bytes())
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HYBRIDGE_", "AWS_"))},
        "HYBRIDGE_RUNTIME_DIR": str(short / "run"),
        "HYBRIDGE_TRUST": str(trust_file),
    }
    one = Server(short / "store", short / "run", environment, ["--tcp", "127.0.0.1:0"])
    yield one
    if one.process is not None and one.process.poll() is None:
        one.kill_tree()
