"""Where a project's own code runs: what goes wrong in it is its author's to mend, and is said in one sentence."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybridge_edge.contract.errors import HybridgeError, Refused

MODULE_PREFIX = "hybridge_project_"
"""Modules of projects are imported under names that begin so."""
_MAX_REASON = 300


@contextmanager
def project_code(doing: str, *, ours_too: bool = False) -> Iterator[None]:
    """Turn an error that a project's code raised into Refused, with the file and line of the project it came through.

    Args:
        doing: what was being done, for the sentence.
        ours_too: also errors with no line of the project in them, such as torch's about tensors that do not fit a layer
            the project made; without it those stay what they are, for they may be ours.

    Raises:
        Refused: from the project's own error, which HYBRIDGE_TRACEBACK=1 shows whole.
    """
    try:
        yield
    except HybridgeError:
        raise
    except Exception as error:
        place = _place(error)
        if not place and not ours_too:
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise Refused(
            f"{doing} failed{place}: {type(error).__name__}: {reason[:_MAX_REASON].rstrip('.')}.",
            "Correct the project's code; HYBRIDGE_TRACEBACK=1 shows the whole trace.",
        ) from error


def _place(error: Exception) -> str:
    """`` in FILE, line N`` of the innermost line that is the project's, or ""."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(MODULE_PREFIX):
            found = f" in {Path(frame.f_code.co_filename).name}, line {line}"
    return found
