"""The support bundle: what is in it, that no planted secret is, and that it is there whatever the device is like."""

from __future__ import annotations

import getpass
import json
import os
import socket
import stat
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hybridge_edge import cli, redact, support
from hybridge_edge.redact import Redactor

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzEXAMPLEKE"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIJhbGciOiJIUzI1NiJ9\nAwEHoUQDQgAE\n-----END EC PRIVATE KEY-----"
SAMPLE = "[0.25, -1.5, 3e-05, 4.0, 5.5, 6.25, 7.125, 8.0, 9.5, 10.75]"
PLANTED = {
    "an AWS key": ("AKIAIOSFODNN7EXAMPLE", "found AKIAIOSFODNN7EXAMPLE here"),
    "an AWS secret": (AWS_SECRET, f"signing with {AWS_SECRET} now"),
    "a password": ("correct-horse", 'connecting, "mqttPassword": "correct-horse", port 8883'),
    "a token in a query": ("FwoGZXIvYXdzEBYaDKL", "GET /x?X-Amz-Security-Token=FwoGZXIvYXdzEBYaDKL&y=1"),
    "a bearer": ("abcdefgh12345", "Authorization: Bearer abcdefgh12345"),
    "a JWT": (JWT, f"token was {JWT}"),
    "a URL's password": ("hunter22", "proxy http://user:hunter22@proxy.example:3128/"),
    "a private key": ("MHcCAQEEIIJhbGciOiJIUzI1NiJ9", f"read\n{PEM}\nfrom disk"),
    "the rest of a cut key": ("AwEHoUQDQgAE", "-----BEGIN PRIVATE KEY-----\nMHcCAQ\nAwEHoUQDQgAE\nand on"),
    "a tensor": ("7.125", f"raw window {SAMPLE}"),
    "a sample's bytes": (r"\x8f\x01\x02\x03", r"payload b'\x8f\x01\x02\x03\x8f\x01\x02\x03\x8f\x01'"),
    "an IPv4 address": ("192.168.17.4", "camera at 192.168.17.4:554 is gone"),
    "an IPv6 address": ("2001:db8:0:3::17", "uplink over [2001:db8:0:3::17]:443"),
    "a MAC address": ("00:1b:44:11:3a:b7", "eth0 00:1b:44:11:3a:b7 up"),
    "an account": ("123456789012", "arn:aws:iot:eu-west-1:123456789012:thing/till"),
    "a mail address": ("jane.doe@example.com", "ask jane.doe@example.com"),
    "a user's folder": ("janedoe", "cannot read /home/janedoe/models/x"),
    "the environment's own secret": ("plain-words-only", "it said plain-words-only to nobody"),
}  # fmt: skip
"""What must not be in a bundle, and a line of a log that holds it."""
KEPT = (
    "2026-11-28T05:09:01Z INFO hybridge_edge.worker: watch 1.0.0 is ACTIVE at epoch 3",
    "sha256:" + "0123456789abcdef" * 4,
    "listening on 127.0.0.1:8001 and [::1]:8001",
    "took 12:34:56, 5 of 7 requests failed, p99 1.5 ms",
    "deployment 6f9619ff-8b86-d011-b42d-00c04fc964ff ended",
    "/greengrass/v2/work/hybridge.InferenceServer/store has 5 MiB",
)
"""What support needs, and no rule may take."""


@pytest.fixture
def root(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nucleus' root with logs that hold every secret, and a server that is down."""
    for name in [name for name in os.environ if name.startswith(("HYBRIDGE_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(short / "run"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "plain-words-only")
    (short / "logs").mkdir()
    lines = [line for _, line in PLANTED.values()]
    (short / "logs" / "hybridge.InferenceServer.log").write_text("\n".join([*KEPT, *lines, "the last line"]) + "\n")
    (short / "work" / "hybridge.InferenceServer" / "store" / "packages").mkdir(parents=True)
    return short


def bundle(root: Path, *words: str) -> dict[str, str]:
    """Every part of a bundle made by the command."""
    out = root / "bundle.zip"
    out.unlink(missing_ok=True)
    store = root / "work" / "hybridge.InferenceServer" / "store"
    spool = store.with_name("spool")
    assert cli.main(["support-bundle", "--out", str(out), "--store", str(store), "--spool", str(spool), *words]) == 0
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_no_planted_secret_is_in_the_bundle_and_what_support_needs_is(root: Path) -> None:
    whole = "\n".join(bundle(root).values())
    for what, (secret, _) in PLANTED.items():
        assert secret not in whole, what
    for line in (*KEPT, "the last line"):
        assert line in whole
    assert stat.S_IMODE((root / "bundle.zip").stat().st_mode) == 0o600


def test_without_redaction_every_planted_secret_would_be_in_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Redactor, "text", lambda self, text: text)
    whole = "\n".join(bundle(root).values())
    assert [what for what, (secret, _) in PLANTED.items() if secret not in whole] == []


def test_the_server_is_down_and_every_part_is_there_all_the_same(root: Path) -> None:
    parts = bundle(root)
    assert {"README.txt", "versions.json", "doctor.json", "status.json", "configuration.json", "models.json",
            "spool.json", "logs.json", "logs/hybridge.InferenceServer.log"} == set(parts)  # fmt: skip
    assert "No server has started" in json.loads(parts["status.json"])["not read"]
    assert "There is no ledger" in json.loads(parts["models.json"])["not read"]
    assert {item["subject"] for item in json.loads(parts["doctor.json"])["findings"]} >= {"trust", "server", "store"}
    assert json.loads(parts["versions.json"])["packages"]["numpy"]


def test_a_running_servers_state_models_and_spool_are_in_it(
    server: Any, packages: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = packages("1.0.0", 1.0)
    server.arguments += ["--capture-share", "1", "--spool", str(server.store.with_name("spool"))]
    server.start()
    assert server.hand_over(built.handover(3))["state"] == "ACTIVE"
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(server.runtime))
    monkeypatch.delenv("HYBRIDGE_STORE", raising=False)
    out = server.store.with_name("bundle.zip")
    assert cli.main(["support-bundle", "--out", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        found = {name: json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")}
    assert [(model["version"], model["state"]) for model in found["status.json"]["models"]] == [("1.0.0", "ACTIVE")]
    assert built.handover(3).digest in json.dumps(found["models.json"]["models"]["watch"])
    assert found["spool.json"]["segments"] >= 0
    assert "redacted" in capsys.readouterr().out


def test_a_part_that_breaks_says_so_and_takes_no_other_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> tuple[()]:
        raise RuntimeError("the driver at 192.168.17.4 is upside down")

    monkeypatch.setattr(support.doctor, "examine", broken)
    parts = bundle(root)
    assert "upside down" in parts["doctor.json"]
    assert "192.168.17.4" not in parts["doctor.json"]
    assert "the last line" in parts["logs/hybridge.InferenceServer.log"]


def test_it_stays_within_its_bounds_and_ends_of_logs_are_whole_lines(root: Path) -> None:
    for number in range(support.MAX_LOGS + 5):
        text = "".join(f"line {count} of log {number}\n" for count in range(16_000 if number < 2 else 50))
        (root / "logs" / f"com.example.C{number}.log").write_text(text)
    (root / "logs" / "link.log").symlink_to("/etc/passwd")
    parts = bundle(root)
    logs = {name: text for name, text in parts.items() if name.startswith("logs/")}
    assert len(logs) == support.MAX_LOGS
    assert "logs/link.log" not in logs
    assert sum(len(text) for text in parts.values()) <= support.TOTAL_BYTES
    for name, text in logs.items():
        assert len(text) <= support.LOG_BYTES
        assert text.startswith("line ") or "InferenceServer" in name
        assert text.endswith("\n")


def test_it_replaces_no_file_and_a_folder_that_is_not_there_is_a_sentence(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle(root)
    before = (root / "bundle.zip").read_bytes()
    assert cli.main(["support-bundle", "--out", str(root / "bundle.zip")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (root / "bundle.zip").read_bytes() == before
    assert cli.main(["support-bundle", "--out", str(root / "nowhere" / "x.zip")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == []


def test_logs_are_found_from_where_the_server_said_it_spools(root: Path) -> None:
    from hybridge_edge import runtime

    spool = root / "work" / "hybridge.InferenceServer" / "spool"
    runtime.Endpoint("i", "", "m", str(spool), 1).write(runtime.folder())
    assert cli.main(["support-bundle", "--out", str(root / "bundle.zip")]) == 0
    with zipfile.ZipFile(root / "bundle.zip") as archive:
        assert "logs/hybridge.InferenceServer.log" in archive.namelist()


@pytest.mark.parametrize("what", PLANTED)
def test_each_rule_takes_its_secret_alone(what: str) -> None:
    secret, line = PLANTED[what]
    redacted = Redactor({"AWS_SESSION_TOKEN": "plain-words-only"}, {}).text(f"before {line} after")
    assert secret not in redacted
    assert redacted.startswith("before ")


@pytest.mark.parametrize("line", KEPT)
def test_what_support_needs_stays_as_it_is(line: str) -> None:
    assert Redactor({}, {}).text(line) == line


def test_values_are_redacted_by_their_names_too_and_lists_of_numbers_go() -> None:
    found = Redactor({}, {"janedoe": "[user]", "root": "[user]"}).value(
        {"apiKey": "x", "tokens": 3, "secret": "", "deep": [{"password": ["a"]}], "row": [0.5] * 9, "few": [1, 2],
         "said": "janedoe and rooted"}
    )  # fmt: skip
    assert found == {
        "apiKey": "[secret]", "tokens": 3, "secret": "", "deep": [{"password": "[secret]"}], "row": "[9 numbers]",
        "few": [1, 2], "said": "[user] and rooted",
    }  # fmt: skip


def test_the_names_of_user_and_host_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "janedoe")
    monkeypatch.setattr(socket, "gethostname", lambda: "line-7-jetson")
    assert redact.of_this_process().text("janedoe on line-7-jetson") == "[user] on [host]"


def test_the_journal_stands_in_where_there_are_no_logs_and_its_absence_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (root / "logs").iterdir():
        path.unlink()
    (root / "logs").rmdir()

    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "journalctl")

    monkeypatch.setattr(subprocess, "run", missing)
    parts = bundle(root)
    assert "journalctl" in parts["logs/journal.log"]
    assert "Name it with --logs" in parts["logs.json"]


@pytest.mark.parametrize(
    "piece", ["a", "a.", "1", "1.", "a-", ":", "x@", "-----BEGIN X-----", "token=", "\\x41", "1, "]
)
def test_a_hostile_log_takes_no_rule_for_ever(piece: str) -> None:
    line = (piece * support.LOG_BYTES)[: support.LOG_BYTES // 8]
    assert isinstance(Redactor({}, {}).text(line), str)
