"""Write the tables of docs/performance.md, and its picture, from the committed results.

    python benchmarks/draw.py [--check]

Everything between ``<!-- NAME -->`` and ``<!-- end -->`` in the page is made from benchmarks/results, so that no figure
there is older than the measurement. --check changes nothing and fails where the page is not what it would write.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"
RESULTS = ROOT / "benchmarks" / "results"
OURS = "ours, unary, Unix socket"
_BLOCK = re.compile(r"(<!-- ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def rows_of(model: str) -> list[dict[str, Any]]:
    return [one for one in result("serving")["figures"] if one["model"] == model]


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def serving(model: str) -> str:
    found = rows_of(model)
    ours = next(one["p50_us"] for one in found if one["row"] == OURS)
    return table(
        ("", "p50, µs", "ours, Unix socket / it", "requests/s, 16 callers", "server's CPU a request then, µs"),
        [
            (
                one["row"],
                f"{one['p50_us']:,.0f}",
                f"{ours / one['p50_us']:.2f}",
                f"{one['many_per_second']:,.0f}",
                f"{one['many_cpu_us']:,.0f}",
            )
            for one in found
        ],
    )


def goals() -> str:
    return table(
        ("promise", "at most", "measured", ""),
        [
            (one["what"], f"{one['goal']:g}", "" if one["reached"] is None else f"{one['reached']:.2f}", one["verdict"])
            for one in result("serving")["goals"]
        ],
    )


def clients() -> str:
    return table(
        ("client", "over", "model", "p50, µs", "p99, µs", "its CPU, µs", "server's CPU, µs"),
        [
            (
                one["client"],
                one["transport"],
                one["model"],
                *(f"{one[name]:,.0f}" for name in ("p50_us", "p99_us", "client_cpu_us", "server_cpu_us")),
            )
            for one in result("client")["figures"]
        ],
    )


def promises() -> str:
    swap, floods, back, ends = result("hotswap"), result("floods"), result("rollback"), result("endings")
    lines = [
        f"* {swap['swaps']:,} swaps under load: {swap['requests']:,} requests, {swap['failed']} failed,"
        f" {swap['mislabelled']} answered by other weights than they named; p99 {swap['p99_ratio']:g} times the steady"
        f" one, {swap['growth_kb_a_swap']:g} KB more memory a swap.",
        f"* {floods['kept']} of {len(floods['floods'])} floods from the network, {floods['seconds_each']:g} s each: the"
        " device's own programs keep the promised share of their answers, without an error.",
        f"* Rolling back to a resident version takes {back['milliseconds']['small']['resident']['median']:g} ms, of a"
        f" 64 MB model {back['milliseconds']['64 MB']['resident']['median']:g} ms"
        f" (at most {back['milliseconds']['64 MB']['resident']['largest']:g}).",
        f"* {ends['kills']:,} kills at random moments and {ends['stops']:,} stops under load:"
        f" {ends['promises_broken']} promises broken.",
    ]
    return "\n".join(lines)


def machine() -> str:
    found = result("serving")
    versions = {one["name"]: one["versions"] for one in found["contenders"] if one["name"] in ("ours", "in-process")}
    told = ", ".join(f"{name} {number}" for name, number in versions["ours"].items())
    return (
        f"{found['machine']['processor']}, {found['machine']['cores']} cores, Python {found['machine']['python']},"
        f" {told}; `{found['command']}`. Every contender's versions are in the file."
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "machine": machine,
    "tiny": lambda: serving("tiny"),
    "mobilenet": lambda: serving("mobilenetv2"),
    "goals": goals,
    "clients": clients,
    "promises": promises,
}


def written(page: str) -> str:
    """The page with every block as it should be. Raises KeyError for a block that nobody makes."""
    return _BLOCK.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]()}\n{found[3]}", page)


def draw(path: Path) -> None:
    """Bars: p50 of the small model, one caller."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hybridge"
    from matplotlib import pyplot

    found = sorted(rows_of("tiny"), key=lambda one: -one["p50_us"])
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(found) + 0.9))
    colours = ["#d4731a" if one["row"].startswith("ours") else "#8a9bb0" for one in found]
    bars = axes.barh([one["row"] for one in found], [one["p50_us"] / 1000 for one in found], color=colours)
    axes.bar_label(bars, [f" {one['p50_us'] / 1000:.2f}" for one in found], fontsize=8)
    axes.set_xlabel("milliseconds a request, one caller, small model (median); less is better", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the page is out of date")
    options = parser.parse_args(arguments)
    before = PAGE.read_text()
    after = written(before)
    if options.check:
        return 0 if after == before else 1
    PAGE.write_text(after)
    draw(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
