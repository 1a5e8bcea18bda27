"""benchmarks/crossover.py asks both ways at every size and finds where they cross. No timing judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import crossover
finally:
    sys.path.pop(0)


@pytest.mark.parametrize(
    ("inline", "shared", "found"),
    [
        ((1, 2, 3, 4), (2, 3, 3, 3), 16_384),
        ((1, 2, 3, 4), (0, 3, 2, 3), 16_384),  # once below by chance is not yet everywhere
        ((1, 2, 3, 4), (1, 2, 3, 4), 4096),
        ((1, 2, 3, 4), (0, 1, 2, 5), 0),
    ],
)
def test_the_crossover_is_where_memory_is_not_slower_from_there_on(
    inline: tuple[float, ...], shared: tuple[float, ...], found: int
) -> None:
    figures = [
        crossover.Figure(size, one, other) for size, one, other in zip(crossover.SIZES[:4], inline, shared, strict=True)
    ]
    assert crossover.crossover(figures) == found


def test_it_asks_a_real_server_at_every_size(tmp_path: Path) -> None:
    out = tmp_path / "crossover.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "crossover.py"), "--rounds", "1", "--seconds", "0.01"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    figures = [crossover.Figure(**one) for one in result["figures"]]
    assert [one.bytes for one in figures] == [4096 << step for step in range(10)]
    assert all(one.inline_us > 0 and one.shared_us > 0 for one in figures)
    assert result["crossover_bytes"] == crossover.crossover(figures)
