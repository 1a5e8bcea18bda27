"""``hybridge train``: a project in, a run out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(train)


def train(
    project: Annotated[Path, typer.Argument(help="The project's folder, such as examples/watch.")],
    out: Annotated[Path, typer.Option("--out", help="The run's folder; it must not exist yet.")],
    split: Annotated[int, typer.Option("--split", help="Which of the project's fixed splits.", min=0)] = 0,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of project.toml's.", min=0)] = None,
) -> None:
    """Train a project's model on its own data, and write a run folder."""
    from rich.console import Console

    from hybridge_cloud.cli.metrics_table import metrics_table
    from hybridge_cloud.cli.training_progress import training_progress
    from hybridge_cloud.training.run import read_run
    from hybridge_cloud.training.train import train_run

    with training_progress() as on_epoch:
        config = train_run(project, out, split, seed, on_epoch)
    rows = ", ".join(f"{count:,} {part}" for part, count in config.rows.items() if count)
    typer.echo(f"trained {config.run} on windows: {rows}")
    Console().print(metrics_table(read_run(out).metrics))
    typer.echo(f"the run is in {out}; next: hybridge compile {out} --out PACKAGE")
