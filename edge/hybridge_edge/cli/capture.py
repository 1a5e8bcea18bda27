"""``hybridge-edge capture``."""

from __future__ import annotations

import argparse

from hybridge_edge.cli import talk
from hybridge_edge.contract.document import Reader, canonical


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="what", required=True, metavar="on|off|status|sample")
    for name, text in (("on", "keep samples again"), ("off", "keep none until told, or started anew"),
                       ("status", "how many were kept, and lost"), ("sample", "where one sample stands")):  # fmt: skip
        verb = verbs.add_parser(name, help=text, description=text)
        talk.add_json(verb)
        if name == "sample":
            verb.add_argument("sample_id", metavar="SAMPLE_ID")


def run(arguments: argparse.Namespace) -> int:
    """Turn capturing on or off, or say how it stands. Returns the exit code."""
    request: dict[str, object] = {"verb": "capture", "on": arguments.what == "on"}
    if arguments.what == "status":
        request = {"verb": "status"}
    elif arguments.what == "sample":
        request = {"verb": "captured", "sample_id": arguments.sample_id}
    reader, answer = talk.tell(canonical(request), talk.ASK_S)
    if talk.shown(arguments, answer):
        return 0
    if arguments.what == "status":
        print(reader.object("capture", _counters))
    elif arguments.what == "sample":
        reason = reader.text("reason")
        print(f"{reader.text('sample_id')} is {reader.text('sample')}{': ' + reason if reason else ''}")
    else:
        print(f"capturing is {arguments.what}")
    return 0


def _counters(reader: Reader) -> str:
    if not reader.names():
        return "nothing is captured on this device: set captureShare or captureConfidenceBelow"
    error = reader.text("error")
    numbers = {name: reader.integer(name) for name in reader.names()}
    dropped = sum(count for name, count in numbers.items() if name.startswith("dropped_"))
    told = f"{numbers['offered']} offered, {numbers['kept']} kept, {numbers['captured']} on the disk, {dropped} lost"
    size = f"the spool holds {numbers['spool_bytes'] / 2**20:.1f} MiB"
    return f"{told}; {size}{'; ' + error if error else ''}"
