"""benchmarks/client.py asks through every client it names and writes what it measured. No timing judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_clients_ask_in_turns_and_ratios_are_of_their_p50(tmp_path: Path) -> None:
    out = tmp_path / "client.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "client.py"), "--rounds", "1", "--seconds", "0.05"]
    chosen = ["--clients", "ours", "tritonclient", "--models", "tiny", "--out", str(out)]
    done = subprocess.run([*command, *chosen], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    p50 = {(one["client"], one["transport"]): one["p50_us"] for one in result["figures"]}
    assert set(p50) == {(name, way) for name in ("ours", "tritonclient") for way in ("Unix socket", "TCP")}
    assert all(one["server_cpu_us"] > 0 and one["p99_us"] >= one["p50_us"] > 0 for one in result["figures"])
    for way in ("Unix socket", "TCP"):
        expected = p50["ours", way] / p50["tritonclient", way]
        assert abs(result["ratios"][f"tiny, {way}: ours / tritonclient"] - expected) < 0.01
