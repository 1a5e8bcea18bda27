"""Puts the commands together."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Annotated

import typer

# Command -> module that holds it as `app` (a group of verbs) or as `register(app)` (top-level verbs).
_GROUPS = {
    "sandbox": "hybridge_cloud.cli.sandbox",
    "package": "hybridge_cloud.cli.package",
    "components": "hybridge_cloud.cli.components",
    "recipes": "hybridge_cloud.cli.recipes",
    "fleet": "hybridge_cloud.cli.fleet",
    "rollout": "hybridge_cloud.cli.rollout",
    "retrain": "hybridge_cloud.cli.retrain",
    "labels": "hybridge_cloud.cli.labels",
}
_COMMANDS = {
    "train": "hybridge_cloud.cli.train",
    "compile": "hybridge_cloud.cli.compile",
    "publish": "hybridge_cloud.cli.publish",
    "deploy": "hybridge_cloud.cli.deploy",
    "demo": "hybridge_cloud.cli.demo",
}


def build() -> Callable[..., object]:
    """The whole command line; imports only the module of the command that was asked for, or all of them for --help."""
    app = typer.Typer(
        name="hybridge",
        help="Hybrid ML: train in the cloud, infer on Greengrass devices, return what was learnt, retrain.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    for name, module in _GROUPS.items():
        if asked in (name, "") or asked not in {**_GROUPS, **_COMMANDS}:
            app.add_typer(importlib.import_module(module).app, name=name)
    for name, module in _COMMANDS.items():
        if asked in (name, "") or asked not in {**_GROUPS, **_COMMANDS}:
            importlib.import_module(module).register(app)
    app.callback(no_args_is_help=True)(_version_option)
    return app


def _version_option(
    version: Annotated[
        bool,
        # Eager: it is answered before anybody misses a command.
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=lambda on: _version(on)),
    ] = False,
) -> None:
    pass


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as version_of

        typer.echo(version_of("hybridge"))
        raise typer.Exit
