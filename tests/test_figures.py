"""Figures in the documents and constants of the code are those of the committed benchmark results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from hybridge_edge.client.exchange import SHARED_BYTES

ROOT = Path(__file__).resolve().parent.parent


def test_the_readme_s_figures_of_put_back_are_the_committed_ones() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "put_back.json").read_text())
    readme = " ".join((ROOT / "README.md").read_text().split())
    found = re.search(
        r"(\d+) of (\d+) bad models put back from ring 0 \(found in ([\d.]+) s, back in ([\d.]+) s in the middle\), "
        r"(\d+) of (\d+) good ones let through, ([\d,]+) of ([\d,]+) requests failed",
        readme,
    )
    assert found is not None
    assert [float(number.replace(",", "")) for number in found.groups()] == [
        result["bad_put_back_from_ring_0"],
        result["bad_rolled_out"],
        round(result["seconds_to_detect"]["median"], 1),
        round(result["seconds_to_put_back"]["median"], 1),
        result["good_passed"],
        result["good_rolled_out"],
        result["failed_requests"],
        result["requests"],
    ]


def test_the_tables_of_the_performance_page_are_those_of_the_committed_results() -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import draw
    finally:
        sys.path.pop(0)
    page = draw.PAGE.read_text()
    assert draw.written(page) == page, "run python benchmarks/draw.py"
    assert draw.written(page.replace("| bare grpcio, TCP | ", "| bare grpcio, TCP | 1")) == page  # and a change is seen
    assert set(re.findall(r"<!-- ([a-z-]+) -->", page)) == {*draw.BLOCKS, "end"}


def within_two(constant: int, measured: int) -> bool:
    return measured > 0 and measured / 2 <= constant <= measured * 2


def test_shared_memory_begins_where_it_was_measured_not_to_be_slower() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "crossover.json").read_text())
    assert within_two(SHARED_BYTES, result["crossover_bytes"]), "set SHARED_BYTES to what benchmarks/crossover.py found"
    assert SHARED_BYTES & (SHARED_BYTES - 1) == 0
    for page in ("client.md", "direct.md"):
        assert f"{SHARED_BYTES // 1024} KiB" in (ROOT / "docs" / page).read_text()
    for wrong in (0, SHARED_BYTES // 4, SHARED_BYTES * 4):  # and a change is seen
        assert not within_two(SHARED_BYTES, wrong)
    larger = [one for one in result["figures"] if one["bytes"] >= result["crossover_bytes"]]
    assert all(one["shared_us"] <= one["inline_us"] for one in larger)
