"""The version of what is installed: the device wheel, or the whole distribution that carries it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """MAJOR.MINOR.PATCH, or 0.0.0 where the code runs from a folder that was never installed."""
    for distribution in ("hybridge-edge", "hybridge"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return "0.0.0"
