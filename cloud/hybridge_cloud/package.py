"""A package as the cloud handles it: read with every digest checked, described, signed or not.

A device believes a package only by its signature (``hybridge_edge.trust``); here it may still be unsigned.
"""

from __future__ import annotations

from pathlib import Path

from hybridge_edge import trust
from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import PackageRefused, UsageError
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.package import Package, check_listing, read_small

MAX_SIGNATURE_BYTES = 2 * MAX_MANIFEST_BYTES


def read_package(folder: Path) -> Package:
    """Read a package, signed or not, and check every file against its manifest. Says nothing about who made it.

    Raises:
        UsageError: there is no package. PackageRefused: a file is missing, altered or not listed.
        InvalidDocument: the manifest cannot be read.
    """
    _check_is_package(folder)
    manifest_bytes = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    manifest = Manifest.from_bytes(manifest_bytes)
    signature = b""
    if (folder / SIGNATURE_FILE).exists():
        signature = read_small(folder, SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
        check_listing(folder, manifest)
    else:
        _check_unsigned_listing(folder, manifest)
    package = Package(folder, manifest, sha256(manifest_bytes), signature)
    for entry in manifest.files:
        package.read(entry.path)
    return package


def verify_package(folder: Path, believed: TrustDocument) -> Manifest:
    """Check a package exactly as a device does; where there is none, or none was signed yet, say what to do here.

    Raises:
        UsageError: there is no package. PackageRefused: unsigned, altered, signed by nobody known, or incomplete.
    """
    _check_is_package(folder)
    if not (folder / SIGNATURE_FILE).is_file():
        raise PackageRefused(
            f"The package {str(folder)!r} is not signed.", f"Sign it: hybridge package sign {folder} --key KEY"
        )
    return trust.verify_package(folder, believed)


def _check_is_package(folder: Path) -> None:
    if not (folder / MANIFEST_FILE).is_file():
        raise UsageError(
            f"{str(folder)!r} is not a package: it has no {MANIFEST_FILE}.", "Make one with `hybridge compile`."
        )


def _check_unsigned_listing(folder: Path, manifest: Manifest) -> None:
    listed = {entry.path for entry in manifest.files} | {MANIFEST_FILE}
    extra = sorted({str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} - listed)
    if extra:
        raise PackageRefused(f"The package holds {extra[0]!r}, which its manifest does not list.", "Remove it.")
