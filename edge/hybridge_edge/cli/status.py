"""``hybridge-edge status``."""

from __future__ import annotations

import argparse
import json
import time

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
    for line in reader.object("tls", _tls):
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


def _tls(reader: Reader) -> list[str]:
    """The certificate that the network is shown, and what is wrong; nothing where there is no TLS."""
    if not reader.names():
        return []
    state, not_after = reader.text("state"), reader.integer("not_after", minimum=-(2**62))
    names, clients, problem = reader.strings("names"), reader.integer("clients"), reader.text("problem")
    connections, handshakes = reader.integer("connections"), reader.numbers_by_name("handshakes")
    for name in reader.names():
        reader.ignore(name)
    until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(not_after))
    shown = f"certificate of {', '.join(names) or 'nobody'} until {until}" if not_after else "nothing to show"
    refused = ", ".join(f"{count:.0f} {result}" for result, count in handshakes.items() if count and result != "ok")
    told = f"; not let in: {refused}" if refused else ""
    said = [f"TLS {state}: {shown}, {clients} names may come, {connections} connections{told}"]
    kept = "goes on with the files of before" if not_after else "lets nobody in"
    return [*said, f"TLS {kept}: {problem}"] if problem else said


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
