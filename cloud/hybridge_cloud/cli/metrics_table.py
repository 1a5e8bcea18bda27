"""Metrics of a run or a package as a table: parts down, metrics across."""

from __future__ import annotations

from rich.table import Table


def metrics_table(metrics: dict[str, float]) -> Table:
    """A table of ``PART.METRIC`` -> number."""
    parts = list(dict.fromkeys(name.partition(".")[0] for name in metrics))
    kinds = list(dict.fromkeys(name.partition(".")[2] for name in metrics))
    table = Table("part", *kinds)
    for part in parts:
        values = [metrics.get(f"{part}.{kind}") for kind in kinds]
        table.add_row(part, *("" if value is None else f"{value:.4f}" for value in values))
    return table
