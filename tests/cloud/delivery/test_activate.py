"""The model component's hand-over: against every answer a management socket can give, and against the real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridge_cloud.components import checkout
from hybridge_edge import runtime
from hybridge_edge.contract.handover import Handover, HandoverAnswer
from hybridge_edge.contract.states import Mode, PackageState

BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)
NUCLEUS = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
DIGEST = "sha256:" + "0" * 64
SERVER_SECONDS = 60.0


@pytest.fixture
def runtime_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hyb", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def artifact(tmp_path: Path, make_package: Callable[..., Path]) -> Path:
    """What the nucleus unpacked: activate.py and package/."""
    folder = tmp_path / "model"
    shutil.copytree(make_package(), folder / "package")
    shutil.copy(checkout.root() / "components" / "model" / "activate.py", folder)
    return folder


class Socket:
    """A management socket that gives prepared answers, one a connection, and keeps what it was asked."""

    def __init__(self, folder: Path, answers: list[bytes | None]) -> None:
        self.asked: list[bytes] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(folder / runtime.MANAGEMENT_SOCKET))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as reader:
                self.asked.append(reader.readline())
                if answer is not None:
                    connection.sendall(answer)

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


def activate(
    artifact: Path, folder: Path | None, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    if folder is not None:
        environment["HYBRIDGE_RUNTIME_DIR"] = str(folder)
    return subprocess.run(
        [BASE_PYTHON, "-I", str(artifact / "activate.py"), "--wait-seconds", "20", *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(state: PackageState, reason: str = "", seen_before: bool = False) -> bytes:
    return HandoverAnswer(state, "toy", "1.0.0", DIGEST, 3, reason, seen_before).to_line()


def refusal(code: str) -> bytes:
    return json.dumps({"ok": False, "error": code, "message": "No.", "remedy": "Do it."}).encode() + b"\n"


@pytest.mark.parametrize(
    ("answers", "exit_code", "said"),
    [
        ([answer(PackageState.ACTIVE)], 0, "ACTIVE: toy 1.0.0"),
        ([answer(PackageState.STAGED)], 0, "STAGED"),
        ([answer(PackageState.SHADOW)], 0, "SHADOW"),
        ([answer(PackageState.BUILDING)], 0, "BUILDING"),
        ([answer(PackageState.RETIRED)], 0, "RETIRED"),
        ([answer(PackageState.REFUSED, "golden: off by 2")], 1, "REFUSED: toy 1.0.0"),
        ([answer(PackageState.REFUSED, "golden: off by 2", seen_before=True)], 0, "golden: off by 2"),
        ([answer(PackageState.QUARANTINED, "crashed 3 times")], 0, "crashed 3 times"),
        ([answer(PackageState.ACTIVE, "superseded by epoch 4")], 0, "superseded by epoch 4"),
        ([refusal("INVALID_DOCUMENT")], 1, "INVALID_DOCUMENT: No. Do it."),
        ([refusal("UNAVAILABLE"), answer(PackageState.ACTIVE)], 0, "waiting for the inference server: UNAVAILABLE"),
        ([None, b"half a li", b"[]\n", answer(PackageState.ACTIVE)], 0, "the connection ended before an answer"),
    ],
)
def test_the_exit_code_follows_the_answer(
    artifact: Path, runtime_folder: Path, answers: list[bytes | None], exit_code: int, said: str
) -> None:
    server = Socket(runtime_folder, answers)
    done = activate(artifact, runtime_folder, "--rollout", "fleet-3", "--epoch", "3")
    server.close()
    assert (done.returncode, done.stderr) == (exit_code, "")
    assert said in done.stdout
    assert len(server.asked) == len(answers)


def test_the_line_is_the_contracts(artifact: Path, runtime_folder: Path) -> None:
    server = Socket(runtime_folder, [answer(PackageState.RETIRED)])
    # Nucleus lite writes numbers of a JSON recipe with decimals.
    activate(artifact, runtime_folder, "--rollout", "fleet-7", "--epoch", "7.00000", "--mode", "retire")
    server.close()
    package = artifact / "package"
    asked = Handover.from_line(server.asked[0])
    assert asked.to_line() == server.asked[0]
    assert (asked.model, asked.package, asked.rollout, asked.epoch, asked.mode) == (
        "toy", str(package), "fleet-7", 7, Mode.RETIRE,
    )  # fmt: skip


def test_it_waits_for_a_server_that_comes_later(artifact: Path, runtime_folder: Path) -> None:
    folder = runtime_folder / "later"
    servers: list[Socket] = []

    def come() -> None:
        folder.mkdir(mode=0o700)
        servers.append(Socket(folder, [answer(PackageState.ACTIVE)]))

    timer = threading.Timer(0.5, come)
    timer.start()
    done = activate(artifact, folder)
    timer.join()
    servers[0].close()
    assert done.returncode == 0
    assert "is not there yet" in done.stdout


def test_without_a_server_it_ends_so_that_the_nucleus_tries_again(artifact: Path, runtime_folder: Path) -> None:
    done = activate(artifact, runtime_folder, "--wait-seconds", "0.3")
    assert done.returncode == 75
    assert "no inference server answered" in done.stdout


def test_it_does_not_believe_a_folder_that_others_can_write(artifact: Path, runtime_folder: Path) -> None:
    open_folder = runtime_folder / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    done = activate(artifact, open_folder, "--wait-seconds", "0.3")
    assert done.returncode == 75
    assert "mode 0700" in done.stdout


@pytest.mark.parametrize("arguments", [("--epoch", "-1"), ("--epoch", "many"), ("--mode", "explode")])
def test_wrong_arguments_are_a_usage_error(artifact: Path, runtime_folder: Path, arguments: tuple[str, str]) -> None:
    done = activate(artifact, runtime_folder, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_an_artifact_without_its_package_is_said_in_a_sentence(artifact: Path, runtime_folder: Path) -> None:
    (artifact / "package" / "manifest.json").unlink()
    done = activate(artifact, runtime_folder)
    assert done.returncode == 2
    assert "deploy the component again" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("socket_path", ["/var/lib/greengrass/gg-ipc.socket", "/greengrass/v2/ipc.socket", ""])
def test_it_finds_the_same_runtime_folder_as_the_server(
    artifact: Path, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYBRIDGE_RUNTIME_DIR", raising=False)
    monkeypatch.setenv(NUCLEUS, socket_path)
    expected = runtime.folder()
    environment = {NUCLEUS: socket_path} if socket_path else {}
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['runtime_folder']())"
    found = subprocess.run(
        [BASE_PYTHON, "-I", "-c", code, str(artifact / "activate.py")],
        env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(expected)


@pytest.fixture
def server(runtime_folder: Path, tmp_path: Path, signer: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The real ``hybridge-edge serve``, with a trust file of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "HYBRIDGE_RUNTIME_DIR": str(runtime_folder),
        "HYBRIDGE_TRUST": str(signer.trust_file),
    }
    command = [str(Path(sys.executable).parent / "hybridge-edge"), "serve", "--store", str(tmp_path / "store"),
               "--spool", str(tmp_path / "spool"), "--tcp", ""]  # fmt: skip
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ask(folder: Path, verb: str) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(folder / runtime.MANAGEMENT_SOCKET))
        connection.sendall(json.dumps({"verb": verb}).encode() + b"\n")
        with connection.makefile("rb") as reader:
            answered: dict[str, object] = json.loads(reader.readline())
    return answered


def test_the_real_server_takes_it_and_refuses_a_package_that_fails_its_golden_inputs_once(
    artifact: Path, runtime_folder: Path, server: subprocess.Popen[bytes], make_package: Callable[..., Path]
) -> None:
    first = activate(artifact, runtime_folder, "--rollout", "fleet-1", "--epoch", "1", "--wait-seconds", "60")
    assert first.returncode == 0, first.stdout
    assert "ACTIVE: toy 1.0.0" in first.stdout
    again = activate(artifact, runtime_folder, "--rollout", "fleet-1", "--epoch", "1")
    assert (again.returncode, "ACTIVE" in again.stdout) == (0, True)

    shutil.rmtree(artifact / "package")
    shutil.copytree(make_package(version="2.0.0", golden_error=1.0), artifact / "package")
    refused = activate(artifact, runtime_folder, "--rollout", "fleet-2", "--epoch", "2")
    assert refused.returncode == 1, refused.stdout
    assert "REFUSED" in refused.stdout
    # The nucleus runs it again, and at every boot: not news any more.
    repeated = activate(artifact, runtime_folder, "--rollout", "fleet-2", "--epoch", "2")
    assert repeated.returncode == 0, repeated.stdout
    assert "1.0.0" in json.dumps(ask(runtime_folder, "status"))
    assert server.poll() is None
