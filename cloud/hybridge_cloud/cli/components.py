"""``hybridge components``: build and publish what runs on devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build and publish the Greengrass components that run on devices.", no_args_is_help=True)
Prefix = Annotated[str, typer.Option(help="The first part of every component's name.")]
Version = Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH; the checkout's components/VERSION by default.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="A component's short name; may be repeated.")]


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")],
    prefix: Prefix = "hybridge",
    version: Version = "",
    only: Only = None,
) -> None:
    """Build the components' artifacts into a folder. Wheels are downloaded once and kept in a cache."""
    from hybridge_cloud.components.build import build as build_components

    for component in build_components(out, prefix, version, tuple(only or ())):
        typer.echo(f"{component.name} {component.version}: {_size(component.artifact)}, {component.content}")


@app.command("publish")
def publish(prefix: Prefix = "hybridge", version: Version = "", only: Only = None) -> None:
    """Build the components and publish them to the account; what is published already with the same content stays."""
    import tempfile

    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.components import publish as publishing
    from hybridge_cloud.components.build import build as build_components

    bucket = Bucket.from_environment()
    with tempfile.TemporaryDirectory(prefix="hybridge-components-") as folder:
        for component in build_components(Path(folder), prefix, version, tuple(only or ())):
            done = publishing.publish(component, bucket)
            state = "published" if done.created else "is published already, with the same content"
            typer.echo(f"{done.name} {done.version}: {state} ({_size(component.artifact)})")


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
