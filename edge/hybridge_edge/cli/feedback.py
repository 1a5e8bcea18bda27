"""``hybridge-edge feedback``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.client.labels import feedback_line
from hybridge_edge.contract.feedback import DEFAULT_SOURCE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sample_id", metavar="SAMPLE_ID", help="of an answer; row 2 of several is SAMPLE_ID/2")
    parser.add_argument("label")
    parser.add_argument("--model", required=True)
    parser.add_argument("--source", default=DEFAULT_SOURCE, help=f"who says so (default {DEFAULT_SOURCE})")
    parser.add_argument("--confidence", type=float, default=1.0, help="how sure, 0 to 1 (default 1)")
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what a sample is; the label goes to the cloud as samples do. Returns the exit code."""
    line = feedback_line(arguments.sample_id, arguments.label, arguments.model, arguments.source, arguments.confidence)
    reader, answer = talk.tell(line, talk.ASK_S)
    if not talk.shown(arguments, answer):
        print(f"{reader.text('sample_id')} is {reader.text('label')!r}; the sample itself is {reader.text('sample')}")
    return 0
