"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.errors import Conflict, Refused

_NAME_ANOTHER = "Name a folder you may write."


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; when the block ends well, flush it and rename it to ``target``.

    Raises:
        Conflict: ``target`` is there already. Refused: its parent cannot be written.
    """
    refuse_existing(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise Refused(f"{str(target)!r} cannot be made: {error.strerror}.", _NAME_ANOTHER) from None
    try:
        yield making
        for path in making.rglob("*"):
            _flush(path)
        _flush(making)
        making.chmod(0o755)
        durable.rename(making, target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def refuse_existing(target: Path) -> None:
    """Raise Conflict where ``target`` is there already and not an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{str(target)!r} is there already.", "Name another folder, or remove it.")


def refuse_unwritable(target: Path) -> None:
    """Raise what ``output_folder`` would, where that can be known now: asked before work that takes minutes."""
    refuse_existing(target)
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise Refused(f"{str(target)!r} cannot be made: {str(above)!r} cannot be written.", _NAME_ANOTHER)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
