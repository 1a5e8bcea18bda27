"""How a device reaches an object store: settings over what its target says, over the standard AWS variables."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.targets.target import ADDRESSING, CHECKSUMS, STANDARD, ObjectStore, named

SETTINGS = {
    "target": "the kind of device whose object store this is, such as snowball-edge; the settings below go before it",
    "endpoint": "https://HOST:PORT of an object store with S3's API, empty for S3 of the region",
    "region": "what requests are signed for, empty for AWS_REGION",
    "addressing": f"where the bucket's name stands: one of {', '.join(ADDRESSING)}",
    "caFile": "a PEM file: whose certificates are trusted, instead of the system's authorities",
    "credentialsFile": "a shared credentials file, its section default, instead of the token exchange",
    "checksums": f"what is sent beside the signed digest: one of {', '.join(CHECKSUMS)}",
    "conditionalWrites": "whether the store knows If-None-Match: true or false",
}


@dataclass(frozen=True, slots=True)
class Access:
    """How a bucket is reached and requests to it are signed (always Signature Version 4, always with the digest).

    Attributes:
        endpoint: URL of the store, "" for AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the region's own.
        store: what it takes. ca_file: trusted instead of the system's authorities. credentials_file: used instead of
            the token exchange and the environment.
    """

    endpoint: str = ""
    store: ObjectStore = STANDARD
    ca_file: Path | None = None
    credentials_file: Path | None = None

    @classmethod
    def read(cls, configuration: Configuration) -> Access:
        """Read the settings. Raises UsageError."""
        target = configuration.text("target")
        base = named(target).object_store if target else STANDARD
        endpoint = configuration.text("endpoint")
        if endpoint:
            check_endpoint("endpoint", endpoint)
        store = ObjectStore(
            region=configuration.text("region", base.region),
            addressing=configuration.choice("addressing", ADDRESSING, base.addressing),
            checksums=configuration.choice("checksums", CHECKSUMS, base.checksums),
            conditional_writes=configuration.boolean("conditionalWrites", base.conditional_writes),
        )
        return cls(endpoint, store, configuration.path("caFile"), configuration.path("credentialsFile"))


def check_endpoint(name: str, url: str) -> None:
    """Raises UsageError where it is no http(s)://HOST:PORT. ``name`` of the setting or the variable."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(f"{url[:200]!r} is not an endpoint.", f"Write {name} as http(s)://host:port.")


def add_arguments(parser: argparse._ActionsContainer, settings: Mapping[str, str] = SETTINGS) -> None:
    """A flag for each setting, and what it is: ``--ca-file`` of ``caFile``."""
    for name, text in settings.items():
        parser.add_argument(f"--{_apart(name, '-')}", help=text)


def given(arguments: argparse.Namespace, settings: Mapping[str, str] = SETTINGS) -> Mapping[str, object]:
    """The flags' values by their settings' names."""
    return {name: getattr(arguments, _apart(name, "_")) for name in settings}


def _apart(name: str, mark: str) -> str:
    return "".join(f"{mark}{letter.lower()}" if letter.isupper() else letter for letter in name)
