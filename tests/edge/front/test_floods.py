"""A local program has all its answers while somebody floods the server over TCP (S10).

Here a second each of the worst four, and no word about speed; how much of its throughput a local program keeps under
each of the eight is measured by the same program: python benchmarks/floods.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WORST = ("many-in-flight", "rapid-cancel", "pings", "gzip-bomb")
MOST_GROWTH_MB = 64


def test_floods_cost_local_programs_no_answer_and_the_server_little_memory(tmp_path: Path) -> None:
    out = tmp_path / "floods.json"
    command = [sys.executable, ROOT / "benchmarks" / "floods.py", "--seconds", "1", "--out", out, "--attacks", *WORST]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    floods = {one["attack"]: one for one in json.loads(out.read_text())["floods"]}
    assert set(floods) == set(WORST)
    for name, flood in floods.items():
        assert flood["flooded"]["errors"] == {}, name
        assert flood["grown_megabytes"] < MOST_GROWTH_MB, name
        assert flood["recovery_seconds"] < 10, name
        assert flood["strikes"] > 0, name  # it was a flood
