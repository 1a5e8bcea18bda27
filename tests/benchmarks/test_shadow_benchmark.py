"""benchmarks/shadow.py asks with a shadow and without, and says how much was compared. No timing judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_rounds_alternate_and_the_shadow_is_really_run(tmp_path: Path) -> None:
    out = tmp_path / "shadow.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "shadow.py"), "--rounds", "1", "--seconds", "0.3"]
    done = subprocess.run(
        [*command, "--share", "1", "--models", "tiny", "--out", str(out)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    paced, hurried = json.loads(out.read_text())["figures"]
    assert (paced["load"], hurried["load"]) == ("100 requests a second", "one after the other")
    assert paced["compared"] > 0
    assert all(
        one[half]["p99_us"] >= one[half]["p50_us"] > 0 for one in (paced, hurried) for half in ("with", "without")
    )
    assert set(paced["dropped"]) == {"queue-full", "no-lull", "interrupted", "unfit", "gone"}
