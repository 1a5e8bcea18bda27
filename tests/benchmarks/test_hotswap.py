"""benchmarks/hotswap.py swaps and counts; its control finds answers of other weights than named. No timing judged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--swaps", "6", "--steady", "0.15", "--pause", "0.03")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "hotswap.py"), *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_swaps_under_load_fail_no_request_and_answer_with_the_weights_they_name(tmp_path: Path) -> None:
    out = tmp_path / "hotswap.json"
    done = run("--out", str(out))
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert (result["swaps"], result["loaded"], result["pointer_switches"]) == (6, 5, 1)
    assert (result["failed"], result["mislabelled"], result["reasons"]) == (0, 0, [])
    assert result["requests"] == sum(result["answers_by_version"].values()) > 0
    assert len(result["answers_by_version"]) == 4
    assert result["during_swaps_ms"]["count"] > 0
    assert result["steady_ms"]["count"] > 0


def test_the_control_finds_answers_of_other_weights_than_they_name(tmp_path: Path) -> None:
    out = tmp_path / "hotswap.json"
    done = run("--control", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"control: (\d+) mislabelled answers found", done.stdout)
    assert found is not None
    assert int(found[1]) > 0
    assert "4.0.0 (sha256:" in done.stdout
    assert not out.exists()
