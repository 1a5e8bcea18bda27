"""``hybridge sandbox``: an account and a fleet on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybridge_edge.contract.errors import Unavailable

if TYPE_CHECKING:
    from hybridge_cloud.sandbox.folder import Ports, SandboxFolder
    from hybridge_cloud.sandbox.lifecycle import SandboxStatus

app = typer.Typer(help="An account and a fleet on this machine, for trying everything.", no_args_is_help=True)
device = typer.Typer(help="The sandbox's core devices.", no_args_is_help=True)
app.add_typer(device, name="device")

Folder = Annotated[
    Path | None, typer.Option("--dir", help="The sandbox's folder; else $HYBRIDGE_SANDBOX, else ~/.hybridge/sandbox.")
]
Name = Annotated[str, typer.Argument(help="The device's name.")]


@app.command()
def up(
    folder: Folder = None,
    buildspecs: Annotated[
        Path | None,
        typer.Option(
            envvar="HYBRIDGE_BUILDSPECS",
            help="Folder of PROJECT.yml files for CodeBuild actions.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    owner: Annotated[
        int | None, typer.Option(min=1, help="Number of a process; when it ends, however, the sandbox goes down.")
    ] = None,
) -> None:
    """Start the account, the control service and every registered device."""
    import shlex

    from hybridge_cloud.sandbox import lifecycle
    from hybridge_cloud.sandbox.folder import locate

    chosen = locate(folder)
    _say("starting")
    started = lifecycle.up(chosen, str(buildspecs.absolute()) if buildspecs else "", owner)
    typer.echo(f"The sandbox in {chosen.root} is {'up' if started else 'up already'}.")
    typer.echo(f'To use it here: eval "$(hybridge sandbox env --dir {shlex.quote(str(chosen.root))})"')


@app.command()
def down(folder: Folder = None) -> None:
    """Stop everything of the sandbox; what it holds stays."""
    from hybridge_cloud.sandbox import lifecycle
    from hybridge_cloud.sandbox.folder import locate

    chosen = locate(folder)
    stopped = lifecycle.down(chosen)
    typer.echo(f"The sandbox in {chosen.root} is {'down' if stopped else 'down already'}.")


@app.command()
def status(
    folder: Folder = None, as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False
) -> None:
    """Say what runs. Exits 0 where the sandbox is up, 1 where it is not."""
    from hybridge_cloud.sandbox import lifecycle
    from hybridge_cloud.sandbox.folder import locate

    found = lifecycle.status(locate(folder))
    if as_json:
        typer.echo(json.dumps(_document(found), indent=2))
    else:
        typer.echo(f"{found.folder.root}: {found.state}")
        for name, process in sorted(found.processes.items()):
            typer.echo(f"  {name}: process {process.pid}")
        for entry in found.devices:
            running = f"process {entry.process.pid}" if entry.process else "not running"
            typer.echo(f"  device {entry.device.name} ({entry.device.groups[0]}, {entry.device.mode}): {running}")
    if not found.up:
        raise typer.Exit(1)


@app.command()
def env(folder: Folder = None) -> None:
    """Print export lines that lead every AWS client of a shell to the sandbox."""
    import shlex

    from hybridge_cloud.sandbox.folder import ENVIRONMENT_VARIABLE, environment, locate

    chosen = locate(folder)
    for key, value in {**environment(_ports(chosen)), ENVIRONMENT_VARIABLE: str(chosen.root)}.items():
        typer.echo(f"export {key}={shlex.quote(value)}")


@device.command("add")
def device_add(
    name: Name,
    fleet: Annotated[str, typer.Option(help="The fleet it joins.")],
    mode: Annotated[str, typer.Option(help="Which nucleus it behaves as: classic or lite.")] = "classic",
    ring: Annotated[int | None, typer.Option(help="Its ring, 0 to 3; else by a hash of its name.")] = None,
    trust: Annotated[
        Path | None, typer.Option(envvar="HYBRIDGE_TRUST", help="Whose packages it believes: a trust file.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Register a core device, start it, and wait until it has reported its health."""
    from hybridge_cloud.sandbox import devices
    from hybridge_cloud.sandbox.folder import locate
    from hybridge_edge.trust import read_trust

    chosen = locate(folder)
    believed = read_trust(trust) if trust is not None else None
    added = devices.add(chosen, _ports(chosen), name, fleet, mode, ring, believed, _say)
    typer.echo(f"Device {added.name} runs in {added.groups[0]}.")


@device.command("list")
def device_list(folder: Folder = None) -> None:
    """List the registered devices."""
    from hybridge_cloud.sandbox import devices
    from hybridge_cloud.sandbox.folder import locate

    chosen = locate(folder)
    for entry in devices.registered(chosen):
        running = "running" if devices.process(chosen, entry.name) else "stopped"
        typer.echo(f"{entry.name}\t{entry.fleet}\t{entry.groups[0]}\t{entry.mode}\t{running}")


@device.command("env")
def device_env(name: Name, folder: Folder = None) -> None:
    """Print export lines that lead hybridge-edge and other clients of a shell to one device."""
    import shlex

    from hybridge_cloud.sandbox import devices
    from hybridge_cloud.sandbox.folder import locate

    for key, value in devices.environment(locate(folder), name).items():
        typer.echo(f"export {key}={shlex.quote(value)}")


@device.command("remove")
def device_remove(name: Name, folder: Folder = None) -> None:
    """Stop a device and forget it, with everything in its folder."""
    from hybridge_cloud.sandbox import devices
    from hybridge_cloud.sandbox.folder import locate

    chosen = locate(folder)
    devices.remove(chosen, _ports(chosen), name)
    typer.echo(f"Device {name} is removed.")


def _ports(folder: SandboxFolder) -> Ports:
    """The ports of a sandbox that is up."""
    from hybridge_cloud.sandbox import lifecycle

    found = lifecycle.status(folder)
    if not found.up or found.ports is None:
        raise Unavailable(f"The sandbox in {folder.root} is {found.state}.", "Start it with 'hybridge sandbox up'.")
    return found.ports


def _document(found: SandboxStatus) -> dict[str, object]:
    return {
        "dir": str(found.folder.root),
        "up": found.up,
        "state": found.state,
        "ports": asdict(found.ports) if found.ports else None,
        "pids": {name: process.pid for name, process in found.processes.items()},
        "devices": [
            {
                **asdict(entry.device),
                "groups": entry.device.groups,
                "running": entry.process is not None,
                "pid": entry.process.pid if entry.process else None,
            }
            for entry in found.devices
        ],
    }


def _say(line: str) -> None:
    print(f"sandbox: {line} ...", file=sys.stderr, flush=True)
