"""``hybridge-edge shadow``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.report import SLOWER, Evidence
from hybridge_edge.contract.scores import ScoreSketch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show a model's shadow beside the version that answers. Returns the exit code."""
    reader, answer = talk.tell(canonical({"verb": "shadow", "model": arguments.model}), talk.ASK_S)
    if talk.shown(arguments, answer):
        return 0
    model, version = reader.text("model"), reader.text("version")
    share = reader.number("share")
    if not version:
        print(f"{model} has no shadow: hybridge-edge activate PACKAGE --mode shadow")
        return 0
    seen = reader.object("evidence", Evidence.read)
    print(f"{model} {version}  {reader.text('digest')}")
    print(f"beside    {reader.text('against')}, for {reader.integer('seconds')} s, {share:.0%} of its requests")
    print(f"runs on   {reader.text('provider')}")
    print(f"compared  {compared(seen)}")
    if seen.live_timed:
        print(
            f"time      median {seen.live_us} us, {seen.live_us_before} us of the other; in {seen.live_slower} of "
            f"{seen.live_timed} pairs more than {SLOWER:g} times as long"
        )
    scores, others = (reader.object(name, ScoreSketch.read) for name in ("scores", "scores_against"))
    if scores.count and others.count:
        middle = f"median {scores.quantile(0.5):.2f}, {others.quantile(0.5):.2f} of the other"
        print(f"scores    {middle}; {seen.score_shift / 1000:.3f} apart (0 the same, 1 nothing in common)")
    lost = [f"{count:.0f} {reason}" for reason, count in reader.numbers_by_name("dropped").items() if count]
    print(f"dropped   {', '.join(lost) or 'none'}")
    return 0


def compared(seen: Evidence) -> str:
    """One clause of what a shadow's runs said."""
    rate = f" ({seen.live_disagreed / seen.live:.1%})" if seen.live else ""
    return (
        f"{seen.live} rows, {seen.live_disagreed} disagree{rate}; {seen.errors} of {seen.requests} runs failed, "
        f"{seen.guarded} broke a guard"
    )
