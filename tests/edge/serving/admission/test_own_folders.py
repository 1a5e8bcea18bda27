"""A server starts only over folders that are its own, and alone (S20, F24)."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge import lock, runtime
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import Conflict, HybridgeError, Refused
from hybridge_edge.store import Store

ROOT = os.getuid() == 0


def serve(server: Any) -> subprocess.CompletedProcess[str]:
    """A start that is expected to be refused."""
    command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(server.store)]
    return subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=60, check=False)


def link(path: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    path.symlink_to(target)


PLANTED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "the store is a link": (lambda store, away: link(store, away), "is a link, or no folder"),
    "its packages are a link": (lambda store, away: link(store / "packages", away), "is a link, or no folder"),
    "its trials are a link": (lambda store, away: link(store / "trials", away), "is a link, or no folder"),
    "its ledger is a link": (
        lambda store, away: (store / "state.json").symlink_to(away / "state.json"),
        "is a link, or no file",
    ),
    "the ledger is a folder": (lambda store, away: (store / "state.json").mkdir(), "is a link, or no file"),
    "the packages are a file": (lambda store, away: (store / "packages").write_text(""), "is a link, or no folder"),
    "others may write the store": (lambda store, away: store.chmod(0o777), r"has mode 0777: others may use it"),
    "the group may write the packages": (
        lambda store, away: (store / "packages").mkdir() or (store / "packages").chmod(0o770),
        r"has mode 0770: others may use it",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_store_that_is_not_ours_alone_is_refused(tmp_path: Path, name: str) -> None:
    plant, reason = PLANTED[name]
    store, away = tmp_path / "store", tmp_path / "away"
    away.mkdir()
    if name != "the store is a link":
        store.mkdir(mode=0o700)
    plant(store, away)
    with pytest.raises(Refused, match=reason) as refused:
        Store(store)
    assert refused.value.remedy
    assert not list(away.iterdir())


@pytest.mark.skipif(not ROOT, reason="only root can give a folder to somebody else")
@pytest.mark.parametrize("part", ["", "packages", "trials"])
def test_somebody_elses_folder_is_refused(tmp_path: Path, part: str) -> None:
    store = tmp_path / "store"
    Store(store)
    os.chown(store / part, 12345, 12345)
    with pytest.raises(Refused, match="belongs to user 12345, and this server runs as 0"):
        Store(store)


def test_a_runtime_folder_that_is_not_ours_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plant in (lambda path: link(path, tmp_path / "away"), lambda path: path.mkdir() or path.chmod(0o770)):
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        plant(folder)
        monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(folder))
        with pytest.raises(Refused, match="is not a folder of this user with mode 0700"):
            runtime.folder()
        with pytest.raises(Refused):
            lock.take(folder / ".." / folder.name / "lock", "the runtime folder", 0)


def test_a_start_over_a_planted_link_is_one_sentence_and_touches_nothing(server: Any, tmp_path: Path) -> None:
    away = tmp_path / "away"
    link(server.store, away)
    refused = serve(server)
    assert refused.returncode == 1
    assert f"The store {server.store} is a link, or no folder." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(away.iterdir())
    server.store.unlink()
    server.store.mkdir(mode=0o700)
    link(server.store / "trials", away)
    refused = serve(server)
    assert refused.returncode == 1
    assert "trials is a link, or no folder" in refused.stderr
    assert not list(away.iterdir())


def test_a_second_server_waits_for_the_first_and_takes_over(server: Any, packages: Callable, kit: ModuleType) -> None:
    """One at a time over one store; the gap between the last answer of one and the first of the other is printed."""
    kit.activate(server.store, packages("1.0.0", 2.0))
    server.start()
    first, pid = server.process, server.endpoint.pid
    with pytest.raises(Conflict, match="Another server uses the store"):
        lock.take(server.store / "lock", "the store", wait_s=0)
    command = [sys.executable, "-m", "hybridge_edge.cli", "serve", "--store", str(server.store), *server.arguments]
    second = subprocess.Popen(
        command, env=server.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(1.0)
    assert (second.poll(), server.endpoint.pid) == (None, pid)
    first.terminate()
    began = time.monotonic()
    first.communicate(timeout=30)
    server.process = second
    server.wait(not_pid=pid)
    until = time.monotonic() + 20
    while True:
        try:
            with Client(server.endpoint.inference) as client:
                assert client.infer("watch", {"window": kit.window()}).version == "1.0.0"
            break
        except HybridgeError:
            assert time.monotonic() < until
            time.sleep(0.02)
    print(f"\ntaken over {time.monotonic() - began:.2f} s after the first was told to stop")
    assert server.stop() == 0
