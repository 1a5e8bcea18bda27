"""Flags of the verbs that may ask a server on the network."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge.client import ClientTls
from hybridge_edge.client.signatures import inputs_over
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.contract.tensors import TensorSpec

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that is not found in this device's runtime folder."""

    address: str
    tls: ClientTls | None

    def inputs_of(self, model: str) -> dict[str, TensorSpec]:
        """The raw inputs of a model, as that server says them."""
        return {spec.name: spec for spec in inputs_over(self.address, self.tls, model, TIMEOUT_S)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a server on the network, instead of this device's own")
    group.add_argument("--address", default="", metavar="HOST:PORT", help="where it listens")
    group.add_argument("--tls-ca", metavar="FILE", help="PEM: the authorities whose servers are trusted")
    group.add_argument("--tls-certificate", metavar="FILE", help="PEM: this client's certificate")
    group.add_argument("--tls-key", metavar="FILE", help="PEM: its key")
    group.add_argument("--tls-name", default="", help="the name in the server's certificate; default: HOST")


def remote(arguments: argparse.Namespace) -> Remote | None:
    """The server that is asked for, None for this device's own. Raises UsageError where something is missing."""
    files = {
        "--tls-ca": arguments.tls_ca,
        "--tls-certificate": arguments.tls_certificate,
        "--tls-key": arguments.tls_key,
    }
    missing = [flag for flag, value in files.items() if not value]
    if not arguments.address:
        if len(missing) < len(files) or arguments.tls_name:
            raise UsageError("TLS is for a server on the network.", "Name it with --address HOST:PORT.")
        return None
    if len(missing) == len(files) and not arguments.tls_name:
        return Remote(arguments.address, None)
    if missing:
        raise UsageError(f"TLS is set by half: {', '.join(missing)} missing.", "Give all three files, or none.")
    ca, certificate, key = (Path(value) for value in files.values())
    return Remote(arguments.address, ClientTls(ca, certificate, key, arguments.tls_name))
