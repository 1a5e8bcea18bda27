"""``hybridge-edge``: the device's command line. Exit codes: 0 done, 1 refused, 2 called wrongly."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence

from hybridge_edge.contract.errors import HybridgeError

_COMMANDS = {
    "serve": ("hybridge_edge.cli.serve", "answer inferences on this device"),
    "activate": ("hybridge_edge.cli.activate", "hand a package to the running server"),
    "install": ("hybridge_edge.cli.install", "install a package from a file, such as on a USB stick"),
    "infer": ("hybridge_edge.cli.infer", "ask the running server once"),
    "status": ("hybridge_edge.cli.status", "show what the running server does"),
    "list": ("hybridge_edge.cli.listing", "show what the store holds of each model"),
    "describe": ("hybridge_edge.cli.describe", "show what a model takes, gives and runs on"),
    "shadow": ("hybridge_edge.cli.shadow", "show what stands beside a model, and how the two compare"),
    "load": ("hybridge_edge.cli.load", "bring a model back into memory"),
    "unload": ("hybridge_edge.cli.unload", "take a model out of memory"),
    "rollback": ("hybridge_edge.cli.rollback", "put the version before back"),
    "feedback": ("hybridge_edge.cli.feedback", "say what a sample is"),
    "capture": ("hybridge_edge.cli.capture", "keep samples or not, and where they stand"),
    "doctor": ("hybridge_edge.cli.doctor", "say what this device can run and what is missing"),
    "support-bundle": ("hybridge_edge.cli.support_bundle", "write what support needs to know, redacted, into one file"),
    "bench": ("hybridge_edge.cli.bench", "load the running server from other processes"),
    "pipeline": ("hybridge_edge.pipeline", "read windows from sensors, infer, publish results"),
    "uplink": ("hybridge_edge.uplink", "send captured samples to S3"),
}
"""Command -> module with add_arguments(parser) and run(arguments) -> exit code, and what it does."""


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: the look-up takes 5 MB, and the supervisor stays in memory."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from hybridge_edge.version import installed_version

        print(installed_version())
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a mistake is one sentence on the error stream."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="hybridge-edge", description="Hybridge on the device: serve models, capture samples, return them."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    verbs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run: Callable[[argparse.Namespace], int] | None = None
    for name, (module_name, text) in _COMMANDS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        # Only the command that was asked for is imported: a device starts the pipeline without the server's parts.
        if name in words[:1]:
            module = importlib.import_module(module_name)
            module.add_arguments(verb)
            run = module.run
    parsed = parser.parse_args(words)
    assert run is not None, "argparse let an unknown command through"
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        return run(parsed)
    except HybridgeError as error:
        print(f"hybridge-edge: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
