"""``hybridge demo``: one turn of the loop on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Where the run and its reports go; must be empty or absent.")] = Path(
        "demo-out"
    ),
    devices: Annotated[int, typer.Option(min=1, max=8, help="How many core devices; one a ring with four.")] = 4,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sandbox running at the end.")] = False,
    chaos: Annotated[
        int | None, typer.Option(help="Kill one process, chosen by this seed, while the loop turns.")
    ] = None,
    split: Annotated[int, typer.Option(min=0, help="Which of the example's splits.")] = 0,
    project: Annotated[Path, typer.Option(help="The project that turns the loop.")] = Path("examples/watch"),
) -> None:
    """Train, package, deploy, serve, return, retrain, roll out by rings, and put two bad models back."""
    import signal

    from rich.console import Console

    from hybridge_cloud.demo import folder
    from hybridge_cloud.demo.stage import Options
    from hybridge_cloud.demo.story import turn

    # As Ctrl-C: what the demo started is stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    chosen = folder.prepare(out)
    summary = turn(Options(project, chosen, devices, split, keep, chaos), console)
    console.print()
    console.print(summary.table())
    console.print(f"\n{chosen / 'report.json'}\n{chosen / 'report.html'}", highlight=False)
    if keep:
        console.print(f'The sandbox runs: eval "$(hybridge sandbox env --dir {chosen / "sandbox"})"', highlight=False)
