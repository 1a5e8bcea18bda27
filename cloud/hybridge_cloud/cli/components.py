"""``hybridge components``: build and publish what runs on devices."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hybridge_cloud.components.build import Component
    from hybridge_cloud.components.target import Target

app = typer.Typer(help="Build and publish the Greengrass components that run on devices.", no_args_is_help=True)
Prefix = Annotated[str, typer.Option(help="The first part of every component's name.")]
Version = Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH; the checkout's components/VERSION by default.")]
Only = Annotated[
    list[str] | None, typer.Option("--component", "--only", help="A component's short name; may be repeated.")
]
Platform = Annotated[
    list[str] | None, typer.Option(help="amd64 or aarch64; may be repeated; this machine's by default.")
]
Python = Annotated[
    list[str] | None,
    typer.Option(help="3.10 (JetPack 6), 3.11 or 3.12 (JetPack 7); may be repeated; this one's by default."),
]

With = Annotated[
    list[str] | None, typer.Option("--with", help="camera: OpenCV for the pipeline, 60 MB; may be repeated.")
]


@app.command("build")
def build(
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")],
    prefix: Prefix = "hybridge",
    version: Version = "",
    only: Only = None,
    platform: Platform = None,
    python: Python = None,
    extras: With = None,
) -> None:
    """Build the components' artifacts and recipes into a folder, for this machine or any other.

    Wheels are downloaded once, as the locks name them, and kept in a cache.
    """
    from hybridge_cloud.components.build import build as build_components

    wanted = chosen_targets(platform, python, only, extras)
    for component in build_components(out, prefix, version, tuple(only or ()), wanted, tuple(extras or ())):
        typer.echo(f"{component.name} {component.version}: {sizes(component)}, {component.content}")


@app.command("publish")
def publish(
    prefix: Prefix = "hybridge",
    version: Version = "",
    only: Only = None,
    platform: Platform = None,
    python: Python = None,
    extras: With = None,
) -> None:
    """Build the components and publish them to the account; what is published already with the same content stays."""
    import tempfile

    from hybridge_cloud.aws.s3 import Bucket
    from hybridge_cloud.components import publish as publishing
    from hybridge_cloud.components.build import build as build_components

    bucket = Bucket.from_environment()
    wanted, also = chosen_targets(platform, python, only, extras), tuple(extras or ())
    with tempfile.TemporaryDirectory(prefix="hybridge-components-") as folder:
        for component in build_components(Path(folder), prefix, version, tuple(only or ()), wanted, also):
            done = publishing.publish(component, bucket)
            state = "published" if done.created else "is published already, with the same content"
            typer.echo(f"{done.name} {done.version}: {state} ({sizes(component)})")


def chosen_targets(
    platforms: list[str] | None, pythons: list[str] | None, only: list[str] | None, extras: list[str] | None = None
) -> tuple[Target, ...]:
    """What to build for; says what it will download before it does."""
    from hybridge_cloud.components.build import to_download
    from hybridge_cloud.components.target import targets

    wanted = targets(platforms or (), pythons or ())
    if absent := to_download(tuple(only or ()), wanted, tuple(extras or ())):
        size = sum(pin.size for pin in absent) / 1e6
        typer.echo(f"Downloading {len(absent)} wheels, {size:.1f} MB, for {'; '.join(map(str, wanted))}.")
    return wanted


def sizes(component: Component) -> str:
    """A component's artifacts and how large they are, for people."""
    return ", ".join(f"{artifact.name} {artifact.size / 1e6:.1f} MB" for artifact in component.artifacts)
