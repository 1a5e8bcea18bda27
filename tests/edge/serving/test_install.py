"""A package installed on the device by somebody who stands before it: until the next deployment, and no longer."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridge_edge import cli
from hybridge_edge.contract.states import PackageState
from hybridge_edge.management import Facts, Management


@pytest.fixture
def install(device: Any) -> Callable[[Any], dict[str, Any]]:
    """Tell the device's management to install a package."""

    def say(built: Any) -> dict[str, Any]:
        facts = Facts("1.1.0", "unix:x", "")
        management = Management(device.service, device.store, device.activation, facts)
        request = {"verb": "install", "model": "watch", "package": str(built.folder), "digest": built.digest}
        found: dict[str, Any] = json.loads(management.answer(json.dumps(request).encode() + b"\n"))
        return found

    return say


def test_it_answers_at_the_epoch_that_holds_until_the_next_deployment(
    device: Any, packages: Callable, install: Callable
) -> None:
    deployed, by_hand, later = (packages(f"1.{number}.0", 1.0 + number) for number in range(3))
    device.activation.hand_over(deployed.handover(5))
    answer = install(by_hand)
    assert (answer["state"], answer["epoch"]) == ("ACTIVE", 5)
    for _ in range(2):
        assert device.serves() == ("1.1.0", 2.0)
        # A nucleus asserts the deployment that holds at every boot.
        assert device.activation.hand_over(deployed.handover(5)).state is PackageState.REFUSED
        device.restart()
        device.activation.resume()
    assert device.activation.hand_over(later.handover(6)).state is PackageState.ACTIVE
    assert device.serves() == ("1.2.0", 3.0)


def test_where_nothing_was_deployed_any_deployment_wins(device: Any, packages: Callable, install: Callable) -> None:
    answer = install(packages("1.0.0", 1.0))
    assert (answer["state"], answer["epoch"]) == ("ACTIVE", 0)
    assert device.activation.hand_over(packages("0.9.0", 9.0).handover(1)).state is PackageState.ACTIVE
    assert device.serves() == ("0.9.0", 9.0)


def test_what_is_refused_or_quarantined_leaves_all_as_it_was(
    device: Any, packages: Callable, install: Callable, kit: Any
) -> None:
    deployed, bad = packages("1.0.0", 1.0), packages("1.1.0", 2.0)
    device.activation.hand_over(deployed.handover(5))
    stranger = packages("1.2.0", 3.0, signers=(kit.signer(1),))
    assert install(stranger)["state"] == "REFUSED"
    assert "not signed" in install(stranger)["reason"]
    assert device.store.record("watch").wanted.digest == deployed.digest
    assert install(bad)["state"] == "ACTIVE"
    device.activation.rollback("watch", "it lies")
    answer = install(bad)
    assert (answer["state"], answer["reason"]) == ("QUARANTINED", "it lies")
    assert device.serves() == ("1.0.0", 1.0)


@pytest.fixture
def command(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """``hybridge-edge install`` on the device of a running server; returns its exit code and what it said."""
    for name, value in server.environment.items():
        if name.startswith("HYBRIDGE_"):
            monkeypatch.setenv(name, value)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))

    def run(path: Path, *words: str) -> tuple[int, str]:
        code = cli.main(["install", str(path), *words])
        captured = capsys.readouterr()
        assert list(scratch.iterdir()) == []
        return code, captured.out + captured.err

    return run


def test_from_a_stick_to_answers_of_a_running_server(
    server: Any, packages: Callable, command: Callable, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    first, second, third = (packages(f"1.{number}.0", 1.0 + number) for number in range(3))
    server.start()
    with zipfile.ZipFile(stick / "watch.zip", "w") as archive:
        for path in first.folder.rglob("*"):
            archive.write(path, path.relative_to(first.folder))
    assert command(stick / "watch.zip") == (0, "watch 1.0.0 is ACTIVE at epoch 0, until the next deployment\n")
    shutil.copytree(second.folder, stick / "image" / "package")
    assert command(stick / "image") == (0, "watch 1.1.0 is ACTIVE at epoch 0, until the next deployment\n")
    assert server.hand_over(third.handover(1))["state"] == "ACTIVE"
    assert server.say(verb="list")["models"][0]["active"] == "1.2.0"

    # A package that the store has already is taken from there, so harm is done to one that it never saw.
    shutil.copytree(packages("1.3.0", 4.0).folder, stick / "harmed")
    (stick / "harmed" / "model.onnx").write_bytes(b"x")
    (stick / "watch.zip").write_bytes((stick / "watch.zip").read_bytes()[:-30])
    (stick / "nothing").mkdir()
    for name, said in (("harmed", "is not the file that was signed"), ("watch.zip", "zip"), ("nothing", "no package"),
                       ("absent.zip", "cannot be read")):  # fmt: skip
        code, words = command(stick / name)
        assert code in (1, 2)
        assert said in words
        assert words.startswith("hybridge-edge: ")
        assert words.count("\n") == 1
    assert server.say(verb="list")["models"][0]["active"] == "1.2.0"
    server.stop()
    (server.runtime / "endpoint.json").unlink()
    with zipfile.ZipFile(stick / "watch.zip", "w") as archive:
        for path in first.folder.rglob("*"):
            archive.write(path, path.relative_to(first.folder))
    assert "No server has started" in command(stick / "watch.zip", "--wait", "0")[1]
