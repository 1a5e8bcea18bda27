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
) -> None:
    """Export a run to ONNX, check that it answers as torch did, and write a package."""
    from rich.console import Console

    with Console(stderr=True).status("exporting and comparing"):
        from hybridge_cloud.compile.bundle import compile_run

        compiled = compile_run(run, out, version)
    parity, manifest = compiled.parity, compiled.manifest
    for tensor in parity.tensors:
        typer.echo(
            f"parity of {tensor.name}: {tensor.elements:,} elements of {parity.rows} held-out rows, "
            f"largest difference from torch {tensor.largest:.2g}"
        )
    typer.echo(f"parity of {parity.metric}: torch {parity.torch_metric:.4f}, ONNX {parity.onnx_metric:.4f}")
    typer.echo(f"compiled {manifest.name} {manifest.version}, digest {manifest.digest}")
    typer.echo(f"the package is in {out}; next: hybridge package sign {out} --key KEY")
