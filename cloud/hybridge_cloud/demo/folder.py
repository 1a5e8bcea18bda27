"""The demo's output folder: an earlier run's is replaced, anything else is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from hybridge_edge.contract.errors import UsageError

MARK = ".hybridge-demo"


def prepare(out: Path) -> Path:
    """Make ``out`` empty and return it as an absolute path.

    Raises:
        UsageError: it holds something that no demo wrote, or a demo's sandbox still runs in it.
    """
    out = out.resolve()
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UsageError(f"{out} holds files that no demo wrote.", "Name another folder with --out.")
    if (out / "sandbox").exists():
        from hybridge_cloud.sandbox import lifecycle
        from hybridge_cloud.sandbox.folder import SandboxFolder

        if lifecycle.status(SandboxFolder(out / "sandbox")).up:
            raise UsageError(
                f"A sandbox runs in {out / 'sandbox'}.", f"Stop it: hybridge sandbox down --dir {out / 'sandbox'}"
            )
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / MARK).write_text("Everything in this folder is replaced by the next run of the demo.\n")
    return out
