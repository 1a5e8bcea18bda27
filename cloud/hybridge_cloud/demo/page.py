"""The run as a page: report.html, one file, no script, nothing fetched."""

from __future__ import annotations

import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybridge_cloud.demo.answers import LoadRecord, Numbers, matches
from hybridge_cloud.demo.summary import STATEMENT, Summary

_COLOURS = ("#94a3b8", "#2563eb", "#16a34a", "#d97706", "#dc2626")
_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1e293b}
h1{font-size:1.6rem;margin-bottom:.2rem}
h2{font-size:1.15rem;margin-top:2.2rem}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;margin:1.2rem 0}
.figures div{border:1px solid #e2e8f0;border-radius:.5rem;padding:.7rem .9rem}
.figures b{display:block;font-size:1.5rem}
.figures span{color:#64748b;font-size:.85rem}
svg{width:100%;height:auto}
p.note{color:#64748b;font-size:.9rem}
td{padding:.35rem .9rem .35rem 0;vertical-align:top;border-top:1px solid #e2e8f0}
"""


def write(summary: Summary, records: list[LoadRecord], known: tuple[Numbers, ...], path: Path) -> None:
    """Write the page.

    Args:
        records: what each device answered. known: what each version gives for the windows asked.
    """
    bad = [told for told in summary.rollouts if told.kind != "good"]
    figures = [
        (f"{summary.before.value:.3f} → {summary.after.value:.3f}", "accuracy on the frozen slice"),
        (f"{summary.failed_requests} of {summary.requests:,}", "requests failed, counted by the caller"),
        (
            f"{summary.samples.lost} / {summary.samples.duplicated}",
            f"samples lost / duplicated of {summary.samples.captured}",
        ),
        (f"{sum(told.rings == 1 for told in bad)} of {len(bad)}", "bad models stopped in the first ring and put back"),
    ]
    cards = "".join(f"<div><b>{html.escape(big)}</b><span>{html.escape(small)}</span></div>" for big, small in figures)
    sections = [
        (
            "Which version answered, device by device",
            _svg(lambda axes: _answers(axes, records, known), 8, 0.7 * len(records) + 1.1),
            _ANSWERS_NOTE,
        ),
        ("How long an answer took", _svg(lambda axes: _latency(axes, records), 8, 2.4), _LATENCY_NOTE),
        ("Before and after retraining", _svg(lambda axes: _accuracy(axes, summary), 8, 1.8), STATEMENT),
        ("Where the samples are", _svg(lambda axes: _samples(axes, summary), 8, 1.9), ""),
        ("Where the time went", _svg(lambda axes: _seconds(axes, summary), 8, 0.32 * len(summary.seconds) + 0.6), ""),
    ]
    rows = "".join(
        f"<tr><td><b>{html.escape(told.version)}</b><td>{html.escape(told.sentence)}<td>{html.escape(told.reason)}</tr>"
        for told in summary.rollouts
    )
    body = f"<h2>Rollouts</h2><table>{rows}</table>" + "".join(
        f"<h2>{title}</h2>{svg}<p class=note>{html.escape(note)}</p>" for title, svg, note in sections
    )
    text = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Hybridge: one turn of the loop</title>"
        f"<style>{_STYLE}</style><h1>One turn of the loop</h1>"
        "<p>A model learnt, was packed and signed, went to every device by Greengrass, answered, gave its samples "
        "back, learnt from them, and was replaced ring by ring while it answered. Two bad models followed; each was "
        "stopped in the first ring, by what that ring's device measured, and put back.</p>"
        f"<div class=figures>{cards}</div>{body}</html>\n"
    )
    path.write_text(text)


_ANSWERS_NOTE = (
    "Each answer is assigned to the version whose outputs it carries, computed from the package's own graphs; "
    "what the server says of itself is only compared."
)
_LATENCY_NOTE = (
    "Seen by the calling process over a Unix socket, everything else running on the same cores; not a benchmark."
)


def _svg(draw: Callable[[Any], None], width: float, height: float) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw(axes)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _answers(axes: Any, records: list[LoadRecord], known: tuple[Numbers, ...]) -> None:
    """A strip a device: the share of each second's answers that each version gave, by their numbers."""
    begin = min((record.sent_at[0] for record in records if len(record.sent_at)), default=0.0)
    end = max((record.sent_at[-1] for record in records if len(record.sent_at)), default=1.0)
    edges = np.arange(0.0, end - begin + 1.0, 1.0)
    versions = sorted(version for item in known for version in item.versions)
    for row, record in enumerate(records):
        carried = matches(record, known)
        total = np.maximum(np.histogram(record.sent_at - begin, bins=edges)[0], 1)
        bottom = np.full(len(edges) - 1, float(row))
        for index, version in enumerate(versions):
            name = next(item.name for item in known if version in item.versions)
            times = record.sent_at[carried[name] & (record.version == version)] - begin
            share = 0.8 * np.histogram(times, bins=edges)[0] / total
            label = f"version {version}" if row == 0 else None
            axes.bar(edges[:-1], share, bottom=bottom, width=1.0, align="edge", color=_COLOURS[index % 5], label=label)
            bottom += share
        failed = record.sent_at[record.code != 0] - begin
        if len(failed):
            axes.plot(failed, np.full(len(failed), row + 0.4), "x", color="black")
    axes.set_yticks([row + 0.4 for row in range(len(records))], [record.device for record in records])
    axes.set_ylim(len(records), -0.1)
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0))


def _latency(axes: Any, records: list[LoadRecord]) -> None:
    begin = min((record.sent_at[0] for record in records if len(record.sent_at)), default=0.0)
    for index, record in enumerate(records):
        answered = record.code == 0
        axes.plot(
            record.sent_at[answered] - begin,
            record.latency[answered] * 1e3,
            ".",
            ms=1.5,
            color=_COLOURS[1 + index % 4],
            label=record.device,
        )
    axes.set_yscale("log")
    axes.set_xlabel("seconds")
    axes.set_ylabel("ms")
    axes.legend(frameon=False, markerscale=5, ncols=4, loc="upper right")


def _accuracy(axes: Any, summary: Summary) -> None:
    for row, (name, accuracy) in enumerate((("before", summary.before), ("after", summary.after))):
        axes.barh(row, accuracy.value, color=_COLOURS[row + 1], height=0.55)
        axes.plot([accuracy.low, accuracy.high], [row, row], color="#0f172a", lw=2)
        axes.text(accuracy.high + 0.01, row, f"{accuracy.value:.3f}", va="center")
        axes.text(0.01, row, name, va="center", color="white")
    axes.set_yticks([])
    axes.set_xlim(0, 1.08)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on the frozen slice, with 95 % interval")


def _samples(axes: Any, summary: Summary) -> None:
    rows = [
        ("replayed", summary.samples.replayed),
        ("captured", summary.samples.captured),
        ("returned", summary.samples.returned),
    ]
    for row, (name, count) in enumerate(rows):
        axes.barh(row, count, color=_COLOURS[row], height=0.6)
        axes.text(count, row, f" {count}", va="center")
        axes.text(0, row, f" {name}", va="center")
    axes.set_yticks([])
    axes.invert_yaxis()


def _seconds(axes: Any, summary: Summary) -> None:
    names = list(summary.seconds)
    axes.barh(names, [summary.seconds[name] for name in names], color=_COLOURS[1])
    for row, name in enumerate(names):
        axes.text(summary.seconds[name], row, f" {summary.seconds[name]:.1f}", va="center")
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
