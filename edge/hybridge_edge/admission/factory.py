"""Packages that came with the device, one folder each below the factory folder: a last resort for each model.

A factory package is signed and examined like any other. It is loaded from where it lies and never copied, so that it
still answers where the store is lost, full or read-only, and nothing that collects garbage ever sees it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from hybridge_edge.contract.errors import HybridgeError
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.package import Package
from hybridge_edge.trust import open_package

_LOG = logging.getLogger(__name__)
MAX_PACKAGES = 64


class Factory:
    """The packages in ``folder``; "" is a factory that sent none."""

    def __init__(self, folder: str = "") -> None:
        self._folder = folder

    def packages(self, trust: TrustDocument) -> dict[str, Package]:
        """By model; one that cannot be believed is left out, and of two of a model the first counts."""
        found: dict[str, Package] = {}
        for folder in self._folders():
            try:
                package = open_package(folder, trust)
            except HybridgeError as error:
                _LOG.error("The factory package %s is of no use: %s", folder.name, error)
                continue
            if package.manifest.name in found:
                _LOG.error("The factory package %s is a second one of %s.", folder.name, package.manifest.name)
            found.setdefault(package.manifest.name, package)
        return found

    def find(self, digest: str, trust: TrustDocument) -> Package | None:
        """The package of that digest, or None."""
        return next((one for one in self.packages(trust).values() if one.digest == digest), None)

    def _folders(self) -> list[Path]:
        if not self._folder:
            return []
        try:
            return sorted(path for path in Path(self._folder).iterdir() if path.is_dir())[:MAX_PACKAGES]
        except OSError as error:
            _LOG.error("The factory folder %s cannot be read: %s.", self._folder, error.strerror)
            return []
