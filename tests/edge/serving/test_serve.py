"""``hybridge-edge serve`` as processes: swaps under load, kill -9 everywhere, and the sentences people get."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from types import ModuleType
from typing import Any

import numpy
import pytest

from hybridge_edge import lock
from hybridge_edge.cli import main
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import Conflict, Unavailable

RECOVERS_WITHIN_S = 30.0


def factor_of(answer: Any, window: numpy.ndarray) -> float:
    return round(float(answer.outputs["scores"].sum() / window.mean(axis=1).sum()), 3)


def served(server: Any, kit: ModuleType) -> tuple[str, float]:
    with Client(server.endpoint.inference) as client:
        window = kit.window()
        answer = client.infer("watch", {"window": window})
        return answer.version, factor_of(answer, window)


def eventually(ask: Callable[[], bool]) -> bool:
    until = time.monotonic() + RECOVERS_WITHIN_S
    while time.monotonic() < until:
        try:
            if ask():
                return True
        except Unavailable:
            pass
        time.sleep(0.05)
    return False


def test_swaps_under_load_fail_nothing_and_every_answer_is_of_its_version(
    server: Any, packages: Callable, kit: ModuleType
) -> None:
    versions = {f"1.{number}.0": packages(f"1.{number}.0", 1.0 + number, probes=16) for number in range(4)}
    server.arguments += ["--live-share", "0.5"]
    server.start()
    first, *_ = versions.values()
    server.hand_over(first.handover(1))
    stop, failures, answers = Event(), [], []

    def load(seed: int) -> None:
        window = kit.window(rows=1 + seed, seed=seed)
        with Client(server.endpoint.inference if seed % 2 else server.endpoint.tcp) as client:
            while not stop.is_set():
                try:
                    answer = client.infer("watch", {"window": window})
                    answers.append((answer.version, factor_of(answer, window)))
                except Exception as error:
                    failures.append(error)

    threads = [Thread(target=load, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for epoch in range(2, 22):
        wanted = list(versions.values())[epoch % len(versions)]
        assert server.hand_over(wanted.handover(epoch))["state"] == "ACTIVE"
    for epoch in range(22, 32):  # there and put back, there and put back
        wanted = list(versions.values())[epoch % 2]
        assert server.hand_over(wanted.handover(epoch))["state"] == "ACTIVE"
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert len({version for version, _ in answers}) == len(versions)
    assert all(factor == versions[version].factor for version, factor in answers)
    assert server.stop() == 0


def test_a_killed_worker_is_back_with_the_same_model(server: Any, packages: Callable, kit: ModuleType) -> None:
    server.start()
    server.hand_over(packages("1.0.0", 2.0).handover(1))
    for _ in range(2):
        pid = server.endpoint.pid
        os.kill(pid, signal.SIGKILL)
        assert server.wait(not_pid=pid).pid != pid
        assert served(server, kit) == ("1.0.0", 2.0)
    assert server.stop() == 0
    assert not (server.runtime / "inference.sock").exists(), server.said


def test_a_package_that_kills_the_worker_three_times_is_quarantined_and_the_old_one_serves(
    server: Any, packages: Callable, kit: ModuleType
) -> None:
    old, new = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    kit.activate(server.store, old)
    server.start(HYBRIDGE_FAILPOINT="activation.loading")
    with pytest.raises(Unavailable):
        server.hand_over(new.handover(2))

    def quarantined() -> bool:
        return any(model["state"] == "QUARANTINED" for model in server.say(verb="status")["models"])

    assert eventually(quarantined)
    assert served(server, kit) == ("1.0.0", 1.0)
    answer = server.hand_over(new.handover(2))
    assert (answer["state"], answer["seen_before"], answer["version"]) == ("QUARANTINED", True, "1.1.0")
    assert "died 3 times" in answer["reason"]
    server.stop()
    server.start()
    assert server.hand_over(new.handover(2))["state"] == "QUARANTINED"
    assert server.hand_over(new.handover(3))["state"] == "ACTIVE"
    assert served(server, kit) == ("1.1.0", 2.0)


def test_the_worker_ends_with_its_supervisor(server: Any, packages: Callable) -> None:
    server.start()
    pid = server.endpoint.pid
    with pytest.raises(Conflict, match="Another server uses the store"):
        lock.take(server.store / "lock", "the store", wait_s=0)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.communicate()
    os.close(lock.take(server.store / "lock", "the store"))
    assert eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


def test_a_port_in_use_is_one_sentence_and_exit_code_1(server: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server.arguments = ["--tcp", f"127.0.0.1:{other.getsockname()[1]}"]
        server.start(wait=False)
        _, errors = server.process.communicate(timeout=30)
    sentences = [line for line in errors.splitlines() if line.startswith("hybridge-edge: ")]
    assert server.process.returncode == 1
    assert len(sentences) == 1
    assert "Another program uses the port" in sentences[0]
    assert "Traceback" not in errors


def test_the_sockets_are_ours_alone_and_strange_lines_are_answered(server: Any) -> None:
    server.start()
    assert stat.S_IMODE(server.runtime.stat().st_mode) == 0o700
    for name in ("inference.sock", "management.sock"):
        assert stat.S_IMODE((server.runtime / name).stat().st_mode) == 0o660
    assert server.say(verb="dance")["error"] == "INVALID_DOCUMENT"
    assert server.say(verb="status", more=1)["error"] == "INVALID_DOCUMENT"
    assert server.say(verb="describe", model="none")["error"] == "NOT_FOUND"
    assert server.say(verb="rollback", model="none")["error"] == "REFUSED"
    assert server.say(verb="capture", on=True)["ok"] is False
    assert server.say(verb="activate", model="../x")["error"] == "INVALID_DOCUMENT"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.runtime / "management.sock"))
        connection.sendall(b"x" * 70_000)
        assert connection.recv(100) == b""
    assert server.say(verb="status")["ok"] is True


@dataclass
class Ran:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs ``hybridge-edge`` in this process, with the server's environment."""
    for name, value in server.environment.items():
        if name.startswith("HYBRIDGE_"):
            monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        return Ran(code, *capsys.readouterr())

    return run


def test_the_commands(
    server: Any, command: Callable[..., Ran], packages: Callable, kit: ModuleType, tmp_path: Path
) -> None:
    away = command("status")
    assert away.returncode == 1
    assert "Start it with hybridge-edge serve" in away.stderr
    server.arguments += ["--capture-share", "1", "--spool", str(tmp_path / "spool")]
    server.start()
    assert "no model yet" in command("status").stdout
    built = packages("1.0.0", 2.0)
    first = command("activate", str(built.folder))
    assert (first.returncode, first.stdout) == (0, "watch 1.0.0 is ACTIVE at epoch 1\n")
    bad = command("activate", str(packages("1.1.0", 3.0, golden_error=1.0).folder))
    assert bad.returncode == 1
    assert "REFUSED: golden: " in bad.stderr
    numpy.save(tmp_path / "window.npy", kit.window()[0])
    asked = command("infer", "--model", "watch", "--input", str(tmp_path / "window.npy"), "--sample-id", "one")
    answer = json.loads(asked.stdout)
    assert (answer["version"], answer["sample_id"]) == ("1.0.0", "one")
    numpy.testing.assert_allclose(answer["outputs"]["scores"], kit.scores(kit.window(), 2.0), rtol=1e-5, atol=1e-6)
    assert "watch 1.0.0  ACTIVE  epoch 2" in command("status").stdout
    assert eventually(lambda: server.say(verb="status")["capture"]["captured"] == 1)
    assert server.endpoint.spool == str(tmp_path / "spool")
    numpy.savez(tmp_path / "windows.npz", window=kit.window())
    (tmp_path / "note.txt").write_text("no array, no settings, no folder")
    for wrong in (
        ("infer", "--model", "watch", "--input", "none.npy"),
        ("infer", "--model", "watch", "--input", f"windw={tmp_path / 'window.npy'}"),
        ("infer", "--model", "watch", "--input", str(tmp_path / "windows.npz")),
        ("infer", "--model", "watch", "--input", str(tmp_path / "note.txt")),
        ("infer", "--model", "watch", "--input", str(tmp_path)),
        ("infer", "--model", "none", "--input", str(tmp_path / "window.npy")),
        ("activate", str(tmp_path / "nowhere")),
        ("activate", str(tmp_path)),
        ("activate", str(built.folder), "--wait", "nan"),
        ("activate", str(built.folder), "--epoch", str(10**30)),
        ("serve", "--store", str(tmp_path / "note.txt" / "store")),
        ("serve", "--store", str(tmp_path / "other"), "--threads", "0"),
        ("serve", "--settings", str(tmp_path / "note.txt")),
        ("serve", "--threads", "many"),
        ("serve", "--capture-share", "2"),
        ("serve", "--live-share", "1.5"),
        ("serve", "--report-seconds", "0"),
        ("dance",),
    ):
        refused = command(*wrong)
        assert refused.returncode in (1, 2), wrong
        assert refused.stderr.strip(), wrong
        assert "Traceback" not in refused.stderr, wrong


@pytest.mark.parametrize("verb", ["serve", "status", "uplink"])
def test_a_runtime_folder_that_cannot_be_made_is_one_sentence(
    verb: str, command: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", "/dev/null/run")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_IOT_THING_NAME", "HYBRIDGE_BUCKET"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("HYBRIDGE_STORE", str(tmp_path / "store"))
    refused = command(verb)
    assert refused.returncode == 1
    assert "/dev/null/run cannot be made" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_the_module_is_the_command(server: Any) -> None:
    shown = subprocess.run([sys.executable, "-m", "hybridge_edge.cli", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    for verb in ("serve", "activate", "infer", "status", "pipeline", "uplink"):
        assert verb in shown.stdout
