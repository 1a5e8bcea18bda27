"""Progress of a training on the error stream: a bar for people, a line now and then for logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hybridge_cloud.training.loop import Epoch

LOG_LINES = 5
"""How many lines a whole training writes where there is no terminal."""


@contextmanager
def training_progress() -> Iterator[Callable[[Epoch], None]]:
    """Yield what ``train_run`` tells of every epoch; the bar is gone when the block ends."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda epoch: _log(console, epoch)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("reading data", total=None)
        yield lambda epoch: progress.update(
            bar, description=f"loss {epoch.loss:.3f}", completed=epoch.number, total=epoch.of
        )


def _log(console: Console, epoch: Epoch) -> None:
    if epoch.number % max(1, epoch.of // LOG_LINES) == 0 or epoch.number == epoch.of:
        console.print(f"epoch {epoch.number} of {epoch.of}, loss {epoch.loss:.3f}, {epoch.seconds:.1f} s")
