"""What ``hybridge-edge serve`` needs to know, read once from flags, environment, file or deployment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge import greengrass
from hybridge_edge.configuration import Configuration, read_file
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import UsageError

MAX_THREADS = 64
MAX_REPORT_SECONDS = 15 * 60.0
DEFAULT_LIVE_SHARE = 0.05
EVALUATING_SECONDS = 60.0
"""Between two reports while a rollout judges."""
MAX_SPOOL_MEGABYTES = 1024 * 1024
_NAMES = {
    "store": "where packages are installed",
    "tcp": "HOST:PORT on loopback to listen on besides the socket, port 0 for any, empty for none",
    "captureShare": "share of samples kept at random, 0 to 1",
    "captureConfidenceBelow": "keep samples whose confidence is below this, 0 to 1",
    "liveShare": "share of requests that the version before answers too, to compare them, 0 to 1",
    "reportSeconds": "seconds between two reports while a rollout judges what runs here",
    "spool": "where samples wait for the uplink",
    "spoolMegabytes": "the most the spool may hold, in MiB",
    "threads": "threads one run of a model may use",
}


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of a server; folders absolute, ``spool_megabytes`` in MiB, ``threads`` for one run.

    ``live_share`` of requests is answered by the version before too; ``report_seconds`` between reports in a rollout.
    """

    store: Path
    tcp: str
    capture_share: float
    capture_confidence_below: float
    spool: Path
    spool_megabytes: int
    threads: int
    live_share: float = DEFAULT_LIVE_SHARE
    report_seconds: float = EVALUATING_SECONDS

    @property
    def captures(self) -> bool:
        return self.capture_share > 0 or self.capture_confidence_below > 0

    def to_json(self) -> bytes:
        return canonical(
            {
                "store": str(self.store),
                "tcp": self.tcp,
                "capture_share": self.capture_share,
                "capture_confidence_below": self.capture_confidence_below,
                "spool": str(self.spool),
                "spool_megabytes": self.spool_megabytes,
                "threads": self.threads,
                "live_share": self.live_share,
                "report_seconds": self.report_seconds,
            }
        )

    @classmethod
    def from_json(cls, data: bytes | str) -> ServeSettings:
        """What the supervisor tells its worker."""
        reader = parse(data, "settings")
        settings = cls(
            store=Path(reader.text("store")),
            tcp=reader.text("tcp"),
            capture_share=reader.number("capture_share"),
            capture_confidence_below=reader.number("capture_confidence_below"),
            spool=Path(reader.text("spool")),
            spool_megabytes=reader.integer("spool_megabytes"),
            threads=reader.integer("threads"),
            live_share=reader.number("live_share"),
            report_seconds=reader.number("report_seconds"),
        )
        reader.close()
        return settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``serve``; each can also be set as HYBRIDGE_NAME or in the file, where a flag is absent."""
    for name, text in _NAMES.items():
        flag = "--" + "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)
        parser.add_argument(flag, dest=name, help=f"{text} (also {variable(name)})")
    parser.add_argument("--settings", type=Path, help="a JSON file of these settings, their names in camelCase")
    parser.add_argument("--configuration", action="store_true", help="read them from the Greengrass deployment")


def variable(name: str) -> str:
    """The environment variable of a setting: captureShare is HYBRIDGE_CAPTURE_SHARE."""
    return "HYBRIDGE_" + "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name)


def read(arguments: argparse.Namespace) -> ServeSettings:
    """Flags over environment over file over deployment over defaults; strings are coerced. Raises UsageError."""
    environment: Mapping[str, object] = {name: os.environ.get(variable(name)) for name in _NAMES}
    flags = {name: getattr(arguments, name) for name in _NAMES}
    deployed = greengrass.component_configuration() if arguments.configuration else {}
    file: Mapping[str, object] = read_file(arguments.settings) if arguments.settings else {}
    unknown = sorted(set(file) - set(_NAMES))
    if unknown:
        raise UsageError(
            f"{arguments.settings} has the unknown setting {unknown[0]!r}.", f"Settings: {', '.join(_NAMES)}."
        )
    ours = {name: deployed.get(name) for name in _NAMES}
    configuration = Configuration(ours, file, environment, flags)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hybridge"
    return ServeSettings(
        store=Path(configuration.text("store", str(state / "store"))).absolute(),
        tcp=configuration.text("tcp"),
        capture_share=configuration.number("captureShare", 0.0, 0.0, 1.0),
        capture_confidence_below=configuration.number("captureConfidenceBelow", 0.0, 0.0, 1.0),
        spool=Path(configuration.text("spool", str(state / "spool"))).absolute(),
        spool_megabytes=configuration.integer("spoolMegabytes", 256, 1, MAX_SPOOL_MEGABYTES),
        threads=configuration.integer("threads", 1, 1, MAX_THREADS),
        live_share=configuration.number("liveShare", DEFAULT_LIVE_SHARE, 0.0, 1.0),
        report_seconds=configuration.number("reportSeconds", EVALUATING_SECONDS, 1.0, MAX_REPORT_SECONDS),
    )
