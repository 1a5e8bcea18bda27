"""What ``hybridge-edge serve`` needs to know, read once from flags, environment, file or deployment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hybridge_edge import greengrass
from hybridge_edge.configuration import Configuration, read_file
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.front import tls_settings
from hybridge_edge.front.tls_settings import TlsSettings
from hybridge_edge.loopback import parse_address, parse_tcp
from hybridge_edge.serving.sequences import DEFAULT_COUNT, DEFAULT_MEGABYTES, DEFAULT_SECONDS

MAX_THREADS = 64
MAX_REPORT_SECONDS = 15 * 60.0
DEFAULT_LIVE_SHARE = 0.05
DEFAULT_SHADOW_SHARE = 0.2
EVALUATING_SECONDS = 60.0
"""Between two reports while a rollout judges."""
MAX_SPOOL_MEGABYTES = 1024 * 1024
MAX_MEMORY_MEGABYTES = 1024 * 1024
DEFAULT_RUN_SECONDS = 10.0
DEFAULT_PULSE_SECONDS = 60.0
MAX_RUN_SECONDS = 600.0
MAX_METRICS_SECONDS = 3600.0
MAX_SEQUENCES = 65_536
MAX_SEQUENCE_MEGABYTES = 16 * 1024
MAX_SEQUENCE_SECONDS = 86_400.0
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("info", "debug", "warning", "error")
_NAMES = {
    "store": "where packages are installed",
    "tcp": "HOST:PORT to listen on besides the socket, port 0 for any, empty for none; beyond loopback with TLS only",
    "tlsCertificate": "the server's certificate chain for TCP, a PEM file, its own certificate first",
    "tlsKey": "the certificate's key, a PEM file that others may not read",
    "tlsClientCa": "the authorities whose clients may come over TCP, a PEM file",
    "tlsClients": "who may come: DNS and URI names of client certificates, with commas, or a file's absolute path",
    "tlsRevoked": "a file of client certificates that may not come: serial HEX or sha256 HEX a line, empty for none",
    "tlsConnectionSeconds": "how long a connection over TLS may live, in seconds, before it is made anew",
    "captureShare": "share of samples kept at random, 0 to 1",
    "captureConfidenceBelow": "keep samples whose confidence is below this, 0 to 1",
    "liveShare": "share of requests that the version before answers too, to compare them, 0 to 1",
    "shadowShare": "share of requests that a shadow answers too in spare time, to compare it, 0 to 1",
    "reportSeconds": "seconds between two reports while a rollout judges what runs here",
    "spool": "where samples wait for the uplink",
    "spoolMegabytes": "the most the spool may hold, in MiB",
    "threads": "threads one run of a model may use, 0 for what the target says",
    "runSeconds": "the longest one run may take, in seconds, where its package states no limit",
    "pulseSeconds": "how long the serving process may show no life, in seconds, before it is killed and started again",
    "memoryMegabytes": "what loaded models may hold together, in MiB, 0 for no limit",
    "sequences": "how many sequences of models with states may run at once",
    "sequenceMegabytes": "what their states may take together, in MiB",
    "sequenceSeconds": "how long a sequence may be idle, in seconds, before it is forgotten",
    "factory": "a folder of packages, one a model, to serve where nothing else is left",
    "target": "the kind of device this is (see hybridge-edge doctor), empty to have it found out",
    "metrics": "HOST:PORT on loopback for Prometheus, port 0 for any, empty for none",
    "embeddedMetrics": "seconds between two CloudWatch embedded-metric lines on stdout, 0 for none",
    "logFormat": f"how log lines are written: one of {', '.join(LOG_FORMATS)}",
    "logLevel": f"the least that is logged: one of {', '.join(LOG_LEVELS)}",
}
LIVE = frozenset(
    {
        "captureShare", "captureConfidenceBelow", "spoolMegabytes", "liveShare", "reportSeconds", "runSeconds",
        "pulseSeconds", "embeddedMetrics", "logFormat", "logLevel", "sequences", "sequenceMegabytes",
        "sequenceSeconds",
        "tlsClients", "tlsConnectionSeconds",
        "shadowShare",
    }
)  # fmt: skip
"""What a running server follows. The rest are folders, sockets and ports, or decide how models are loaded."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of a server; folders absolute, ``spool_megabytes`` and ``memory_megabytes`` in MiB.

    Attributes:
        threads: for one run, 0 for what the target says. live_share: of requests that the version before answers too.
        shadow_share: of requests that a shadow answers too, in spare time.
        report_seconds: between reports in a rollout. run_seconds: the longest a run may take where its package says
            nothing. pulse_seconds: how long the worker may show no life.
        memory_megabytes: what loaded models may hold together, 0 for no limit. factory: a folder of packages to fall
            back on, "" for none. target: name of the target entry, "" has the device choose.
        sequences, sequence_megabytes, sequence_seconds: how many run at once, MiB of their states together, and how
            long one may be idle.
        metrics: HOST:PORT on loopback for Prometheus, "" for none. embedded_metrics: seconds between two CloudWatch
            embedded-metric lines, 0 for none. log_format: "text" or "json". log_level: one of LOG_LEVELS.
        tls_certificate, tls_key, tls_client_ca, tls_clients, tls_revoked, tls_connection_seconds: see ``TlsSettings``.
    """

    store: Path
    tcp: str
    capture_share: float
    capture_confidence_below: float
    spool: Path
    spool_megabytes: int
    threads: int
    live_share: float = DEFAULT_LIVE_SHARE
    shadow_share: float = DEFAULT_SHADOW_SHARE
    report_seconds: float = EVALUATING_SECONDS
    run_seconds: float = DEFAULT_RUN_SECONDS
    pulse_seconds: float = DEFAULT_PULSE_SECONDS
    memory_megabytes: int = 0
    factory: str = ""
    target: str = ""
    metrics: str = ""
    embedded_metrics: float = 0.0
    log_format: str = "text"
    log_level: str = "info"
    sequences: int = DEFAULT_COUNT
    sequence_megabytes: int = DEFAULT_MEGABYTES
    sequence_seconds: float = DEFAULT_SECONDS
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    tls_clients: str = ""
    tls_revoked: str = ""
    tls_connection_seconds: float = tls_settings.DEFAULT_CONNECTION_S

    @property
    def tls(self) -> TlsSettings | None:
        """What TCP is protected by, None for nothing."""
        if not self.tls_certificate:
            return None
        return TlsSettings(
            self.tls_certificate,
            self.tls_key,
            self.tls_client_ca,
            self.tls_clients,
            self.tls_revoked,
            self.tls_connection_seconds,
        )

    @property
    def captures(self) -> bool:
        return self.capture_share > 0 or self.capture_confidence_below > 0

    def following(self, wanted: ServeSettings) -> ServeSettings:
        """These settings with what is LIVE as ``wanted`` has it."""
        return replace(self, **{_field(name): getattr(wanted, _field(name)) for name in LIVE})

    def differing(self, other: ServeSettings) -> tuple[str, ...]:
        """Names of the settings in which the two differ, in order."""
        return tuple(name for name in _NAMES if getattr(self, _field(name)) != getattr(other, _field(name)))

    def live(self) -> Mapping[str, float | str]:
        """What is LIVE, by name."""
        return {name: getattr(self, _field(name)) for name in sorted(LIVE)}

    def to_json(self) -> bytes:
        values = {name: getattr(self, name) for name in self.__slots__}
        return canonical({name: str(value) if isinstance(value, Path) else value for name, value in values.items()})

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
            shadow_share=reader.number("shadow_share"),
            report_seconds=reader.number("report_seconds"),
            run_seconds=reader.number("run_seconds"),
            pulse_seconds=reader.number("pulse_seconds"),
            memory_megabytes=reader.integer("memory_megabytes"),
            factory=reader.text("factory"),
            target=reader.text("target"),
            metrics=reader.text("metrics"),
            embedded_metrics=reader.number("embedded_metrics"),
            log_format=reader.text("log_format"),
            log_level=reader.text("log_level"),
            sequences=reader.integer("sequences"),
            sequence_megabytes=reader.integer("sequence_megabytes"),
            sequence_seconds=reader.number("sequence_seconds"),
            tls_certificate=reader.text("tls_certificate"),
            tls_key=reader.text("tls_key"),
            tls_client_ca=reader.text("tls_client_ca"),
            tls_clients=reader.text("tls_clients"),
            tls_revoked=reader.text("tls_revoked"),
            tls_connection_seconds=reader.number("tls_connection_seconds"),
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


@dataclass(frozen=True, slots=True)
class Source:
    """Where a server's settings come from.

    Attributes:
        above: what flags, environment and file say, by name; it wins over the deployment. Defaults are below that.
        deployed: whether there is a deployment to follow.
    """

    above: Mapping[str, object]
    deployed: bool = False

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Source:
        """Flags over environment over file. Raises UsageError."""
        environment: Mapping[str, object] = {name: os.environ.get(variable(name)) for name in _NAMES}
        flags = {name: getattr(arguments, name) for name in _NAMES}
        file: Mapping[str, object] = read_file(arguments.settings) if arguments.settings else {}
        unknown = sorted(set(file) - set(_NAMES))
        if unknown:
            raise UsageError(
                f"{arguments.settings} has the unknown setting {unknown[0]!r}.", f"Settings: {', '.join(_NAMES)}."
            )
        return cls(Configuration(file, environment, flags).given(), bool(arguments.configuration))

    def read(self) -> ServeSettings:
        """Flags over environment over file over deployment over defaults; strings are coerced. Raises UsageError."""
        return self.settings(greengrass.component_configuration() if self.deployed else {})

    def settings(self, deployed: Mapping[str, object]) -> ServeSettings:
        """All settings, with a deployment's configuration, whose texts are coerced. Raises UsageError."""
        return _read(Configuration({name: deployed.get(name) for name in _NAMES}, self.above))

    def to_json(self) -> bytes:
        """For the worker; only once ``settings`` has found every value to be a text or a number."""
        above = {name: str(value) for name, value in self.above.items()}
        return canonical({"above": above, "deployed": self.deployed})

    @classmethod
    def from_json(cls, data: bytes | str) -> Source:
        reader = parse(data, "settings' source")
        source = cls(reader.strings_by_name("above"), reader.boolean("deployed"))
        reader.close()
        return source


def read(arguments: argparse.Namespace) -> ServeSettings:
    """As ``Source.read``, for whom the source does not matter."""
    return Source.of(arguments).read()


def _field(name: str) -> str:
    """The attribute of a setting: captureShare is capture_share."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _read(configuration: Configuration) -> ServeSettings:
    # Here, before a worker starts that would only say so in its log.
    if address := configuration.text("tcp"):
        parse_address(address)
    if address := configuration.text("metrics"):
        parse_tcp(address)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hybridge"
    settings = ServeSettings(
        store=Path(configuration.text("store", str(state / "store"))).absolute(),
        tcp=configuration.text("tcp"),
        capture_share=configuration.number("captureShare", 0.0, 0.0, 1.0),
        capture_confidence_below=configuration.number("captureConfidenceBelow", 0.0, 0.0, 1.0),
        spool=Path(configuration.text("spool", str(state / "spool"))).absolute(),
        spool_megabytes=configuration.integer("spoolMegabytes", 256, 1, MAX_SPOOL_MEGABYTES),
        threads=configuration.integer("threads", 0, 0, MAX_THREADS),
        live_share=configuration.number("liveShare", DEFAULT_LIVE_SHARE, 0.0, 1.0),
        shadow_share=configuration.number("shadowShare", DEFAULT_SHADOW_SHARE, 0.0, 1.0),
        report_seconds=configuration.number("reportSeconds", EVALUATING_SECONDS, 1.0, MAX_REPORT_SECONDS),
        pulse_seconds=configuration.number("pulseSeconds", DEFAULT_PULSE_SECONDS, 2.0, MAX_RUN_SECONDS),
        run_seconds=configuration.number("runSeconds", DEFAULT_RUN_SECONDS, 0.01, MAX_RUN_SECONDS),
        memory_megabytes=configuration.integer("memoryMegabytes", 0, 0, MAX_MEMORY_MEGABYTES),
        factory=configuration.text("factory"),
        target=configuration.text("target"),
        metrics=configuration.text("metrics"),
        embedded_metrics=configuration.number("embeddedMetrics", 0.0, 0.0, MAX_METRICS_SECONDS),
        log_format=configuration.choice("logFormat", LOG_FORMATS),
        log_level=configuration.choice("logLevel", LOG_LEVELS),
        sequences=configuration.integer("sequences", DEFAULT_COUNT, 1, MAX_SEQUENCES),
        sequence_megabytes=configuration.integer("sequenceMegabytes", DEFAULT_MEGABYTES, 1, MAX_SEQUENCE_MEGABYTES),
        sequence_seconds=configuration.number("sequenceSeconds", DEFAULT_SECONDS, 1.0, MAX_SEQUENCE_SECONDS),
        tls_certificate=_absolute(configuration.text("tlsCertificate")),
        tls_key=_absolute(configuration.text("tlsKey")),
        tls_client_ca=_absolute(configuration.text("tlsClientCa")),
        tls_clients=configuration.text("tlsClients"),
        tls_revoked=_absolute(configuration.text("tlsRevoked")),
        tls_connection_seconds=configuration.number(
            "tlsConnectionSeconds",
            tls_settings.DEFAULT_CONNECTION_S,
            tls_settings.MIN_CONNECTION_S,
            tls_settings.MAX_CONNECTION_S,
        ),
    )
    tls_settings.check(settings.tcp, settings)
    return settings


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""
