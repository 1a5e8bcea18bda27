"""Where the recipes, the components' own files, the lock and the device package's source lie: in the checkout."""

from __future__ import annotations

from pathlib import Path

from hybridge_edge.contract import names
from hybridge_edge.contract.errors import Refused

_NEEDED = ("recipes", "components", "locks", "edge/pyproject.toml")


def root() -> Path:
    """The checkout this package runs from. Raises Refused where it was installed without one."""
    checkout = Path(__file__).resolve().parents[3]
    missing = [name for name in _NEEDED if not (checkout / name).exists()]
    if missing:
        raise Refused(
            f"Components are built from a checkout, and {checkout} has no {missing[0]}.",
            "Clone the repository, run scripts/setup, and use its hybridge command.",
        )
    return checkout


def component_version() -> str:
    """The version that the components of this checkout are published at; raised whenever their content changes."""
    return names.version((root() / "components" / "VERSION").read_text().strip())
