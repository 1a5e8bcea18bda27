"""Keys and signatures of packages: ed25519, DSSE envelopes, both by securesystemslib."""

from __future__ import annotations

import json
import os
from pathlib import Path

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # exported without saying so

from hybridge_cloud.package import read_package
from hybridge_edge import durable
from hybridge_edge.contract.document import canonical
from hybridge_edge.contract.errors import Conflict, PackageRefused, UsageError
from hybridge_edge.contract.manifest import SIGNATURE_PAYLOAD_TYPE
from hybridge_edge.contract.package_file import SIGNATURE_FILE
from hybridge_edge.contract.trust_document import TrustDocument, TrustedKey

MAX_KEY_BYTES = 16 * 1024


def generate_key(key_file: Path, trust_file: Path) -> str:
    """Make a key pair: the private key into ``key_file`` (PEM, PKCS#8, mode 0600), and a trust file that names it.

    Returns:
        The key's id. Neither file is ever overwritten.

    Raises:
        Conflict: one of them is there already; nothing is written.
    """
    for path in (key_file, trust_file):
        if path.exists() or path.is_symlink():
            raise Conflict(f"{str(path)!r} is there already and is never overwritten.", "Name another file.")
    signer = CryptoSigner.generate_ed25519()
    trust = TrustDocument(1, (_trusted(signer),))
    for path in (key_file, trust_file):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{str(path.parent)!r} cannot be made: {error.strerror}.") from None
    _create(key_file, signer.private_bytes, 0o600)
    try:
        _create(trust_file, trust.to_bytes(), 0o644)
    except BaseException:
        durable.remove(key_file)
        raise
    return signer.public_key.keyid


def sign_package(folder: Path, key_file: Path) -> str:
    """Sign a package whose every file is what its manifest says. Other valid signatures over it stay.

    Returns:
        The id of the key that signed.

    Raises:
        PackageRefused: the package is altered, or its signature is for another manifest.
        UsageError: no package, no key, or a key that cannot be read.
    """
    signer = _load(key_file)
    package = read_package(folder)
    payload = package.manifest.to_bytes()
    envelope = Envelope(payload, SIGNATURE_PAYLOAD_TYPE, {})
    if package.signature:
        envelope = _existing(package.signature, payload)
    envelope.sign(signer)
    durable.write(folder / SIGNATURE_FILE, canonical(envelope.to_dict()), 0o644)
    return signer.public_key.keyid


def signers(signature: bytes) -> tuple[str, ...]:
    """The key ids an envelope carries signatures of, unchecked; () for an unsigned package."""
    if not signature:
        return ()
    try:
        return tuple(Envelope.from_dict(json.loads(signature)).signatures)
    except (Error, ValueError, KeyError, TypeError, AttributeError):
        raise PackageRefused("The package's signature is not a DSSE envelope.", "Sign the package again.") from None


def _existing(signature: bytes, payload: bytes) -> Envelope:
    try:
        envelope = Envelope.from_dict(json.loads(signature))
    except (Error, ValueError, KeyError, TypeError, AttributeError):
        raise PackageRefused("The package's signature is not a DSSE envelope.", "Compile the package again.") from None
    if envelope.payload != payload or envelope.payload_type != SIGNATURE_PAYLOAD_TYPE:
        raise PackageRefused(
            "The package was altered after it was signed: its signature is for another manifest.",
            "Compile the package again.",
        )
    return envelope


def _load(key_file: Path) -> CryptoSigner:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        content = key_file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"The key {str(key_file)!r} cannot be read: {error.strerror}.", "Make one with `hybridge package keygen`."
        ) from None
    try:
        if len(content) > MAX_KEY_BYTES:
            raise ValueError
        return CryptoSigner(load_pem_private_key(content, None))
    except (ValueError, TypeError, Error):
        raise UsageError(f"{str(key_file)!r} is not a private key in PEM form without a password.") from None


def _trusted(signer: CryptoSigner) -> TrustedKey:
    key = signer.public_key
    return TrustedKey(key.keyid, key.keytype, key.scheme, str(key.keyval["public"]))


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file, or raise Conflict where there is one: a key is never replaced."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise Conflict(f"{str(path)!r} is there already and is never overwritten.", "Name another file.") from None
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    durable.sync_folder(path.parent)
