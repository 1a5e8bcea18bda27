"""Authorities and certificates of every kind that a server may be shown, made in a few milliseconds each."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Leaf:
    """A certificate with its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def read(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def fingerprint(self) -> str:
        return self.read.fingerprint(hashes.SHA256()).hex()

    def files(self, folder: Path, name: str) -> tuple[Path, Path]:
        """(certificate, key), the key for its owner alone."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        put(certificate, self.certificate)
        put(key, self.key)
        return certificate, key


def put(path: Path, content: bytes) -> None:
    """Replace a file whole, for its owner alone."""
    beside = path.with_name(f".{path.name}.new")
    beside.touch(mode=0o600)
    beside.write_bytes(content)
    beside.replace(path)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """Signs; ``certificate`` is its own, as PEM."""

    def __init__(self, name: str = "test authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self._name, self._key.public_key(), -1.0, 3650.0)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made = builder.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.certificate = made.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        begins: float,
        ends: float,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=begins))
            .not_valid_after(now + datetime.timedelta(days=ends))
        )

    def leaf(
        self,
        *names: str,
        begins: float = -1.0,
        ends: float = 90.0,
        usage: x509.ObjectIdentifier = CLIENT,
        itself: bool = False,
        raw: bytes = b"",
    ) -> Leaf:
        """A certificate for DNS names, addresses and URIs, valid between these days from now.

        Args:
            itself: signed by its own key, not by the authority's. raw: a DNS name of any bytes, instead of names.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        builder = self._builder(subject, key.public_key(), begins, ends, subject if itself else None)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        if raw:
            name = bytes([0x82, len(raw)]) + raw
            names_as_bytes = x509.UnrecognizedExtension(SAN, bytes([0x30, len(name)]) + name)
            builder = builder.add_extension(names_as_bytes, critical=False)
        made = builder.sign(key if itself else self._key, hashes.SHA256())
        return Leaf(made.public_bytes(serialization.Encoding.PEM), pem(key))

    def server(self, *names: str, begins: float = -1.0, ends: float = 90.0) -> Leaf:
        """For a server on this machine."""
        return self.leaf("localhost", "127.0.0.1", *names, begins=begins, ends=ends, usage=SERVER)


def _general(name: str) -> x509.GeneralName:
    if ":" in name:
        return x509.UniformResourceIdentifier(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
