"""``hybridge-edge status``."""

from __future__ import annotations

import argparse
import json

from hybridge_edge.cli.shadow import compared
from hybridge_edge.cli.talk import tell
from hybridge_edge.contract.document import Reader, canonical
from hybridge_edge.contract.report import ModelReport
from hybridge_edge.contract.states import PackageState

TIMEOUT_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the server's whole answer")


def run(arguments: argparse.Namespace) -> int:
    """Show the running server's models, or everything with --json. Returns the exit code."""
    reader, answer = tell(canonical({"verb": "status"}), TIMEOUT_S)
    if arguments.json:
        print(json.dumps(json.loads(answer), indent=2))
        return 0
    print(reader.object("server", _server))
    for line in reader.object("settings", _settings):
        print(line)
    models = reader.objects("models", ModelReport.read)
    if not models:
        print("no model yet: hybridge-edge activate PACKAGE, or deploy one")
    for model in models:
        reason = f"  {model.reason}" if model.reason else ""
        print(
            f"{model.model} {model.version}  {model.state.value}  epoch {model.epoch}  {model.provider or '-'}  "
            f"{model.requests} requests, {model.failures} failed  {model.digest[:19]}{reason}"
        )
        if model.state is PackageState.SHADOW and model.evidence is not None:
            print(f"  beside it: {compared(model.evidence)}")
    return 0


def _settings(reader: Reader) -> list[str]:
    """What an operator should know of them; nothing where all of the deployment's configuration holds."""
    waiting, refused = reader.strings("waiting", ()), reader.text("refused", "")
    for name in reader.names():
        reader.ignore(name)
    said = [f"settings that hold from the next start: {', '.join(waiting)}"] if waiting else []
    return [*said, f"the newest configuration is refused: {refused}"] if refused else said


def _server(reader: Reader) -> str:
    tcp, spool = reader.text("tcp"), reader.text("spool")
    metrics, target = reader.text("metrics", ""), reader.text("target", "")
    where = reader.text("inference") + (f" and {tcp}" if tcp else "")
    uptime = f"up {reader.number('uptime_s'):.0f} s"
    version, pid = reader.text("version"), reader.integer("pid")
    kind = f", a {target}" if target else ""
    watched = f", metrics on {metrics}" if metrics else ""
    capturing = f", capturing into {spool}" if spool else ""
    return f"hybridge-edge {version}, pid {pid}, {uptime}{kind}, on {where}{watched}{capturing}"
