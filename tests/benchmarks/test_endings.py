"""benchmarks/endings.py kills and stops; its control finds a version that lies and a sample that is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "endings.py"), "--lanes", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_killed_or_told_to_stop_a_server_keeps_its_promises(tmp_path: Path) -> None:
    out = tmp_path / "endings.json"
    done = run("--kills", "2", "--stops", "2", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert (result["kills"], result["stops"], result["promises_broken"]) == (2, 2, 0)
    assert result["answered_before_stops"] > 0
    assert result["outcomes"]["unavailable"] > 0


def test_the_control_finds_both_broken_promises() -> None:
    done = run("--control", "--kills", "1", "--stops", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "version 4.0.0 answered 1" in done.stdout
    assert "not in the spool" in done.stdout
