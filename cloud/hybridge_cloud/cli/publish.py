"""``hybridge publish``: a signed package, to the registry and as a component."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("publish")(publish)


def publish(
    package: Annotated[Path, typer.Argument(metavar="PKG", help="The package's folder, signed.")],
    fleet: Annotated[str, typer.Option(help="The fleet it is for.")],
    trust: Annotated[
        Path | None, typer.Option(help="The trust file of the fleet's devices; HYBRIDGE_TRUST by default.")
    ] = None,
) -> None:
    """Store a package, register it and create its component. The same content twice changes nothing."""
    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.publish import publish as publish_package
    from hybridge_edge.trust import read_trust

    done = publish_package(package, fleet, read_trust(trust), Bucket.from_environment())
    state = "published" if done.created else "is published already, with the same content"
    typer.echo(f"{done.component} {done.version}: {state} ({done.digest})")
