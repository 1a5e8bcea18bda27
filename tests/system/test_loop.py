"""The loop, turned for real: the same command as scripts/demo, every process of it real, and its report believed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 540


@pytest.mark.system
@pytest.mark.timeout(SECONDS + 30)
def test_one_turn_of_the_loop_keeps_every_promise(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [Path(sys.executable).parent / "hybridge", "demo", "--out", str(out), "--devices", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    report = json.loads((out / "report.json").read_text())

    assert report["failed_requests"] == 0
    assert report["requests"] > 2 * 50 * 30
    assert (report["lost"], report["duplicated"]) == (0, 0)
    assert report["captured"] == report["returned"] > 100
    assert report["answers_of_no_version"] == report["answers_mislabelled"] == 0
    assert set(report["last_proven_version"].values()) == {"2.0.0 = 4.0.0"}  # the slow model gives the same numbers
    assert all(count > 0 for count in report["answers_by_proven_version"].values())
    assert set(report["executions_per_dataset"].values()) == {1}
    accuracy = report["accuracy"]
    assert 0.74 < accuracy["before"]["value"] < accuracy["after"]["value"] > 0.9
    ends = {told["kind"]: (told["status"], told["rings"]) for told in report["rollouts"]}
    assert ends == {"good": ("SUCCEEDED", 2), "shuffled": ("PUT_BACK", 1), "slow": ("PUT_BACK", 1)}
    assert (out / "report.html").read_text().count("<svg") == 5
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(out) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == [], "the demo left processes running"
