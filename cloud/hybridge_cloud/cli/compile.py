"""``hybridge compile``: a run in, a package out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compile")(compile_)


def compile_(
    run: Annotated[Path, typer.Argument(help="A run's folder, as `hybridge train` wrote it.")],
    out: Annotated[Path, typer.Option("--out", help="The package's folder; it must not exist yet.")],
    version: Annotated[str, typer.Option("--version", help="MAJOR.MINOR.PATCH; else project.toml's.")] = "",
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", help="A package that this one may replace, to compare with; may be repeated."),
    ] = None,
) -> None:
    """Export a run to ONNX, check that it answers as torch did, and write a package."""
    from rich.console import Console

    with Console(stderr=True).status("exporting and comparing"):
        from hybridge_cloud.compile.bundle import compile_run

        compiled = compile_run(run, out, version, against or ())
    parity, manifest = compiled.parity, compiled.manifest
    for tensor in parity.tensors:
        typer.echo(
            f"parity of {tensor.name}: {tensor.elements:,} elements of {parity.rows} held-out rows, "
            f"largest difference from torch {tensor.largest:.2g}"
        )
    typer.echo(f"parity of {parity.metric}: torch {parity.torch_metric:.4f}, ONNX {parity.onnx_metric:.4f}")
    for guard in manifest.guards:
        typer.echo(f"guard of {guard.output}: {guard.minimum:g} to {guard.maximum:g}, {guard.action}")
    typer.echo(f"probes: {compiled.probes.rows} held-out rows, {compiled.probes.size:,} bytes")
    for other in compiled.measured:
        counts = ", ".join(f"{c.disagreed} of {c.rows} {c.slice} rows ({c.rate:.1%})" for c in other.counts)
        typer.echo(
            f"compared with {manifest.name} {other.version}: answers otherwise on {counts}; "
            f"a rollout may expect {other.comparison.rate:.1%}"
        )
    typer.echo(f"compiled {manifest.name} {manifest.version}, digest {manifest.digest}")
    typer.echo(f"the package is in {out}; next: hybridge package sign {out} --key KEY")
