"""``hybridge fleet``: make fleets, and see what is in them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="Make fleets of devices, and see what is in them.", no_args_is_help=True)
Fleet = Annotated[str, typer.Argument(help="The fleet's name.")]


@app.command("create")
def create(
    fleet: Fleet,
    prefix: Annotated[str, typer.Option(help="The first part of its components' names.")] = "hybridge",
) -> None:
    """Make a fleet and its four rings. Making it twice changes nothing."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet.membership import ensure_fleet

    made = ensure_fleet(Bucket.from_environment(), fleet, prefix)
    typer.echo(f"fleet {made.fleet}: rings 0 to 3, component prefix {made.prefix}")


@app.command("list")
def list_fleets() -> None:
    """Name the fleets."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet.record import all_fleets

    for fleet in all_fleets(Bucket.from_environment()):
        typer.echo(fleet)


@app.command("show")
def show(fleet: Fleet) -> None:
    """Show a fleet's rings, what each is meant to run, and what each device says it runs."""
    from hybridge_cloud.aws import greengrass
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.fleet import membership, record
    from hybridge_cloud.follow import reported
    from hybridge_edge.contract.errors import InvalidDocument

    found = record.read(Bucket.from_environment(), fleet)
    typer.echo(f"fleet {found.fleet}, epoch {found.epoch}, component prefix {found.prefix}")
    for ring in membership.rings(fleet):
        latest = greengrass.latest_deployment(ring.arn)
        wanted = [f"{name}@{item.version}" for name, item in sorted(latest.components.items())] if latest else []
        typer.echo(f"ring {ring.number}: {', '.join(wanted) or 'no deployment'}")
        for device in ring.devices:
            try:
                report = reported(device)
            except InvalidDocument as error:
                typer.echo(f"  {device}: {error}")
                continue
            models = [f"{item.model} {item.version} {item.state.value}" for item in report.models] if report else []
            typer.echo(f"  {device}: {', '.join(models) or ('no model' if report else 'no report')}")
