"""``hybridge-edge list``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import Reader, canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    talk.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show what the store holds of each model. Returns the exit code."""
    reader, answer = talk.tell(canonical({"verb": "list"}), talk.ASK_S)
    if talk.shown(arguments, answer):
        return 0
    lines = reader.objects("models", _line)
    print("\n".join(lines) or "no model yet: hybridge-edge activate PACKAGE, or deploy one")
    return 0


def _line(reader: Reader) -> str:
    active, previous = reader.text("active") or "-", reader.text("previous") or "-"
    resident = ", ".join(reader.strings("resident")) or "none"
    bad = [*reader.objects("quarantined", _verdict), *reader.objects("refused", _verdict)]
    beside = reader.text("shadow", "")
    told = f"{reader.text('model')}  active {active}  before {previous}  in memory {resident}"
    told += f"  shadow {beside}" if beside else ""
    return "\n".join((f"{told}  epoch {reader.integer('epoch')}", *(f"  may not run: {one}" for one in bad)))


def _verdict(reader: Reader) -> str:
    version, reason = reader.text("version"), reader.text("reason")
    return f"{version} {reader.text('digest')[:19]} since epoch {reader.integer('epoch')}: {reason}"
