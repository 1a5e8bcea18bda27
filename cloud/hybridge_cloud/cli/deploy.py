"""``hybridge deploy``: component and model versions, to every device of a fleet."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("deploy")(deploy)


def deploy(
    targets: Annotated[
        list[str], typer.Argument(metavar="NAME@VERSION...", help="Models, or InferenceServer and the like.")
    ],
    fleet: Annotated[str, typer.Option(help="The fleet.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="COMPONENT:key=value", help="Configuration; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow every device to its end.")] = False,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait with --wait.")] = 900.0,
) -> None:
    """Deploy versions to every device of a fleet; what is not named stays as it is."""
    from hybridge_cloud import deploy as deploying
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.follow import DeviceEnd, End, follow
    from hybridge_edge.contract.errors import Refused

    done = deploying.deploy(
        fleet,
        [deploying.Target.parse(text) for text in targets],
        [deploying.Setting.parse(text) for text in settings or ()],
        Bucket.from_environment(),
    )
    for written in done.rings:
        typer.echo(f"{written.ring.group}: deployment {written.id}, {len(written.ring.devices)} devices")
    if not wait:
        return

    def say(device: DeviceEnd) -> None:
        typer.echo(f"  {device.thing}: {device.end.value}{': ' + device.reason if device.reason else ''}")

    ends = follow(done, timeout, say)
    missed = [device for device in ends if device.end is not End.DONE]
    if missed:
        raise Refused(
            f"{len(missed)} of {len(ends)} devices did not get there: "
            + ", ".join(f"{device.thing} {device.end.value}" for device in missed)
            + ".",
            f"Look at them: hybridge fleet show {fleet}",
        )
    typer.echo(f"{len(ends)} devices done")
