"""The whole story, for real: the same command as scripts/demo, every process of it real, one of them killed on the way.

Seed 49 kills an uplink with kill -9 in the middle of the replay: nothing may be lost, doubled or failed all the same.
More deaths on demand, each a whole run:

    HYBRIDGE_CHAOS_SEEDS=0,1,2,3 scripts/test tests/system/test_loop.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 540
UPLINK_DIES = "49"
SEEDS = os.environ.get("HYBRIDGE_CHAOS_SEEDS", UPLINK_DIES).split(",")


@pytest.mark.system
@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_story_ends_right_although_a_process_is_killed_on_the_way(tmp_path: Path, seed: str) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [Path(sys.executable).parent / "hybridge", "demo", "--out", str(out), "--devices", "2", "--chaos", seed],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    commands = (" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
    assert [command for command in commands if str(out) in command] == [], "the demo left processes running"
    said = f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in said, said
    if seed != UPLINK_DIES and done.returncode:
        assert f"Seed {seed} killed the " in done.stderr, said  # it says clearly why it did not end right
        return
    assert done.returncode == 0, said
    report = json.loads((out / "report.json").read_text())
    check(report)
    assert report["chaos"]["candidates"]
    if seed == UPLINK_DIES:
        assert (report["chaos"]["kind"], report["failed_requests"]) == ("uplink", 0)
    assert (out / "report.html").read_text().count("<svg") == 5


def check(report: dict[str, Any]) -> None:
    """The promises of one turn that hold whoever died."""
    assert report["requests"] > 2 * 50 * 30
    assert (report["lost"], report["duplicated"]) == (0, 0)
    assert report["captured"] == report["returned"] > 100
    assert report["answers_of_no_version"] == report["answers_mislabelled"] == 0
    assert set(report["last_proven_version"].values()) == {"2.0.0 = 4.0.0"}  # the slow model gives the same numbers
    assert all(report["answers_by_proven_version"][numbers] > 0 for numbers in ("1.0.0", "2.0.0 = 4.0.0"))
    assert set(report["executions_per_dataset"].values()) == {1}
    accuracy = report["accuracy"]
    assert 0.74 < accuracy["before"]["value"] < accuracy["after"]["value"] > 0.9
    ends = {told["kind"]: (told["status"], told["rings"]) for told in report["rollouts"]}
    assert ends == {"good": ("SUCCEEDED", 2), "shuffled": ("PUT_BACK", 1), "slow": ("PUT_BACK", 1)}
