"""Believes a package's manifest, or says why not: a DSSE envelope, known keys, a threshold.

securesystemslib does the cryptography; this module decides what is asked of it and turns every way to fail into one
PackageRefused.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hybridge_edge.contract.document import sha256
from hybridge_edge.contract.errors import PackageRefused
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, SIGNATURE_PAYLOAD_TYPE, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE, SIGNATURE_FILE
from hybridge_edge.contract.trust_document import DEFAULT_TRUST_FILE, TRUST_VARIABLE, TrustDocument
from hybridge_edge.package import Package, read_small

if TYPE_CHECKING:
    from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so

MAX_SIGNATURE_BYTES = 2 * MAX_MANIFEST_BYTES
"""A DSSE envelope holds the manifest once more, in base64."""
_SIGN_AGAIN = "Sign the package with a key this device trusts, and publish it again."


def trust_file() -> Path:
    """Where this device's trust file lies: ``HYBRIDGE_TRUST``, else /etc/hybridge/trust.json."""
    return Path(os.environ.get(TRUST_VARIABLE) or DEFAULT_TRUST_FILE)


def read_trust(path: Path | None = None) -> TrustDocument:
    """Read the trust file; without one no package can be believed.

    Raises:
        PackageRefused: there is none. InvalidDocument: it cannot be read.
    """
    path = path or trust_file()
    try:
        return TrustDocument.from_bytes(path.read_bytes())
    except OSError as error:
        raise PackageRefused(
            f"The trust file {path} cannot be read ({error.strerror}), so no package can be believed.",
            f"Enrol the device, or name its trust file with {TRUST_VARIABLE}.",
        ) from None


def open_package(folder: Path, trust: TrustDocument) -> Package:
    """Believe the manifest of the package in ``folder``. Its files are checked as they are read or copied.

    Raises:
        PackageRefused: no folder, not enough valid signatures of known keys, or a manifest that is not the signed one.
        InvalidDocument: the signed manifest is of an unknown format.
    """
    signature = read_small(folder, SIGNATURE_FILE, MAX_SIGNATURE_BYTES)
    manifest_bytes = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    _check_signature(signature, manifest_bytes, trust)
    return Package(folder, Manifest.from_bytes(manifest_bytes), sha256(manifest_bytes), signature)


def verify_package(folder: Path, trust: TrustDocument) -> Manifest:
    """Check a whole package where it lies: signature, listing, every file's size and digest.

    Raises:
        PackageRefused: with what is wrong.
    """
    package = open_package(folder, trust)
    package.verify_files()
    return package.manifest


def _check_signature(signature: bytes, manifest: bytes, trust: TrustDocument) -> None:
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        envelope = Envelope.from_dict(json.loads(signature))
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PackageRefused("The package's signature is not a DSSE envelope.", _SIGN_AGAIN) from None
    if envelope.payload_type != SIGNATURE_PAYLOAD_TYPE or envelope.payload != manifest:
        raise PackageRefused("The package's signature is for another manifest.", _SIGN_AGAIN)
    try:
        envelope.verify(_keys(trust), trust.threshold)
    except (Error, ValueError, TypeError):
        raise PackageRefused(
            f"The package is not signed by {trust.threshold} of the {len(trust.keys)} keys this device trusts.",
            _SIGN_AGAIN,
        ) from None


def _keys(trust: TrustDocument) -> list[Key]:
    from securesystemslib.signer import Key  # type: ignore[attr-defined]  # exported without saying so

    keys = []
    for key in trust.keys:
        try:
            keys.append(Key.from_dict(key.keyid, key.to_json()))
        except (ValueError, KeyError, TypeError) as error:
            raise PackageRefused(
                f"The trust file holds a key of a kind this version does not know: {error}.", "Enrol the device again."
            ) from None
    return keys
