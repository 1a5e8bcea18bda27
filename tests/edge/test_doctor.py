"""The doctor finds what is missing, says what to do, and never faints."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from hybridge_edge import cli, doctor
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.doctor import Finding, Verdict, examine, healthy
from hybridge_edge.engines import onnx


@pytest.fixture
def well(short: Path, trust: TrustDocument, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A device that lacks nothing."""
    for name in list(os.environ):
        if name.startswith(("HYBRIDGE_", "AWS_")):
            monkeypatch.delenv(name)
    (short / "trust.json").write_bytes(trust.to_bytes())
    monkeypatch.setenv("HYBRIDGE_TRUST", str(short / "trust.json"))
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(short / "run"))
    return short


def found(folder: Path, target: str = "") -> dict[str, Finding]:
    return {one.subject: one for one in examine(target, folder / "store", folder / "spool")}


def test_a_device_that_lacks_nothing_is_healthy_and_everything_was_looked_at(well: Path) -> None:
    findings = found(well)
    assert healthy(tuple(findings.values()))
    looked = {"target", "python", "onnxruntime", "providers", "memory", "cores", "store", "spool", "trust", "server"}
    assert looked | {"runtime folder", "clock", "nucleus", "open files", "trial isolation"} <= set(findings)
    for one in findings.values():
        assert one.verdict is Verdict.GOOD or one.remedy or "cannot be looked at" in one.found, one


def test_a_missing_trust_file_is_missing_with_what_to_do(well: Path) -> None:
    (well / "trust.json").unlink()
    finding = found(well)["trust"]
    assert finding.verdict is Verdict.MISSING
    assert "HYBRIDGE_TRUST" in finding.remedy


def test_a_runtime_folder_open_to_others_is_missing(well: Path) -> None:
    (well / "run").mkdir(mode=0o755)
    (well / "run").chmod(0o755)
    assert found(well)["runtime folder"].verdict is Verdict.MISSING


def test_a_gpu_target_on_a_machine_without_one_says_what_it_lacks_and_still_runs(
    well: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_loads", lambda library: False)
    findings = found(well, "x86-cuda13") if sys.platform == "linux" and os.uname().machine == "x86_64" else {}
    if not findings:
        pytest.skip("the target is for another architecture")
    assert findings["libcudnn.so.9"].verdict is Verdict.WORTH_KNOWING
    assert "CUDAExecutionProvider" in findings["providers"].found
    assert findings["onnxruntime"].verdict is Verdict.MISSING  # the CPU's build, older than the target takes


def test_a_runtime_that_does_not_import_is_a_finding(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "hybridge_edge.engines.onnx")
    monkeypatch.delattr("hybridge_edge.engines.onnx", raising=False)
    findings = found(well)
    assert findings["target"].verdict is Verdict.MISSING
    assert findings["onnxruntime"].verdict is Verdict.MISSING
    assert "hybridge-edge[cpu]" in findings["onnxruntime"].remedy


def test_a_clock_that_was_never_set_is_noticed(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(well)["clock"].verdict is Verdict.GOOD
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert found(well)["clock"].verdict is Verdict.WORTH_KNOWING


def test_few_open_files_are_noticed(well: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, soft), hard))
    try:
        assert "ulimit" in found(well)["open files"].remedy
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(well: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[str, ...]:
        raise RuntimeError("the driver is upside down")

    found(well)
    monkeypatch.setattr(onnx, "available_providers", broken)
    findings = found(well, "cpu-amd64" if os.uname().machine == "x86_64" else "cpu-aarch64")
    assert "upside down" in findings["providers"].found
    assert findings["trust"].verdict is Verdict.GOOD


def test_the_command_prints_a_table_or_json_and_its_exit_code_says_whether_it_is_well(
    well: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kit: ModuleType
) -> None:
    words = ["doctor", "--store", str(well / "store"), "--spool", str(well / "spool")]
    assert cli.main(words) == 0
    assert "ok       trust" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True
    monkeypatch.setenv("HYBRIDGE_TRUST", str(well / "nothing.json"))
    assert cli.main(words) == 1
    table = capsys.readouterr().out
    assert "missing  trust" in table
    assert "-> Enrol" in table


def test_as_a_process_it_says_nothing_else(well: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybridge_edge.cli", "doctor", "--target", "toaster", "--store", str(well / "store")],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ""
    assert "There is no target 'toaster'" in done.stdout
