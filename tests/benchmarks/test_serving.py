"""benchmarks/serving.py on the contenders that need no environment of their own, and a broken one. No figure judged."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    "in-process",
    "ours, unary, TCP",
    "ours, unary, Unix socket",
    "ours, streaming, TCP",
    "ours, streaming, Unix socket",
    "ours, direct socket",
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "serving.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_contenders_are_measured_in_turns_and_one_that_does_not_start_is_a_row_that_says_why(tmp_path: Path) -> None:
    out, environments = tmp_path / "serving.json", tmp_path / "environments"
    broken = environments / "kserve"
    (broken / "bin").mkdir(parents=True)
    (broken / "bin" / "python").write_text("#!/bin/sh\necho 'Error: this one is broken' >&2\nexit 3\n")
    (broken / "bin" / "python").chmod(0o755)
    mark_as_made(broken)
    this_environment_as(environments / "hybridge")
    done = run(
        *("--contenders", "in-process,ours,kserve", "--models", "tiny", "--rounds", "1", "--seconds", "0.2"),
        *("--environments", str(environments), "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [(one["row"], one["model"]) for one in result["figures"]] == [(row, "tiny") for row in ROWS]
    for one in result["figures"]:
        assert one["failed"] == 0
        assert one["p50_us"] > 0
        assert one["many_per_second"] > 0
        assert one["row"] in done.stdout
    assert len(result["rounds"]) == 2 * len(ROWS)
    reasons = {one["name"]: one["not_measured"] for one in result["contenders"]}
    assert reasons == {"in-process": "", "ours": "", "kserve": "ended with 3: Error: this one is broken"}
    assert "kserve: not measured: ended with 3" in done.stdout
    verdicts = {goal["what"]: goal["verdict"] for goal in result["goals"]}
    assert verdicts["tiny, p50 at one caller, ours, unary, TCP / KServe"] == "not measured"
    assert verdicts["tiny, p50 at one caller, streaming / unary, TCP"] in ("reached", "MISSED")
    assert result["machine"]["cores"]
    assert result["contenders"][1]["versions"]["onnxruntime"]


def mark_as_made(environment: Path) -> None:
    lock = (ROOT / "benchmarks" / "locks" / f"{environment.name}.txt").read_bytes()
    mark(environment, lock)


def mark(environment: Path, lock: bytes) -> None:
    (environment / "lock.sha256").write_text(hashlib.sha256(lock).hexdigest())


def this_environment_as(environment: Path) -> None:
    """The tests' own environment in place of the device's: what is tested here is the benchmark."""
    (environment / "bin").mkdir(parents=True)
    python = environment / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    mark(environment, (ROOT / "locks" / "edge-amd64-py311.txt").read_bytes())
