"""The sandbox's folder: where everything of one sandbox lies, and the little state the keeper writes there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.errors import InvalidDocument, Refused

FORMAT = 1
REGION = "us-east-1"
ACCOUNT_ID = "000000000000"
BUCKET = "hybridge-sandbox"
HOST = "127.0.0.1"
ENVIRONMENT_VARIABLE = "HYBRIDGE_SANDBOX"
DEFAULT_FOLDER = Path("~/.hybridge/sandbox")
MARK_VARIABLE = "HYBRIDGE_SANDBOX_PROCESS"
"""In the environment of every process of a sandbox, with its resolved folder: found again whatever was killed when."""
_HOLDS = ("sandbox.json", "environment", "lock", "devices.lock", "account", "control", "devices", "sensors", "logs")


@dataclass(frozen=True, slots=True)
class Ports:
    """The three loopback ports of a sandbox, chosen once and kept, so that written-down endpoints stay right."""

    account: int
    control: int
    mqtt: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A process as the kernel knows it: its number and its start time, which together are never used twice.

    Args:
        pid: the process's number.
        started: clock ticks after boot (proc(5), /proc/PID/stat, field 22).
    """

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class State:
    """What ``sandbox.json`` holds."""

    ports: Ports
    state: str = "down"
    processes: dict[str, Recorded] = field(default_factory=dict)
    buildspecs: str = ""


@dataclass(frozen=True, slots=True)
class SandboxFolder:
    """Paths inside one sandbox."""

    root: Path

    @property
    def state_file(self) -> Path:
        return self.root / "sandbox.json"

    @property
    def environment_file(self) -> Path:
        return self.root / "environment"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def account(self) -> Path:
        return self.root / "account"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def devices(self) -> Path:
        return self.root / "devices"

    @property
    def sensors(self) -> Path:
        return self.root / "sensors"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def devices_lock(self) -> Path:
        return self.root / "devices.lock"

    def device(self, name: str) -> Path:
        return self.devices / name

    def make(self) -> None:
        """Make the folders, readable by their owner alone: they hold private keys.

        Raises:
            Refused: they cannot be made, or the folder is full of something else, which must not be overwritten.
        """
        if foreign := self._foreign():
            raise Refused(
                f"{self.root} is not a sandbox's folder: it holds {foreign}.", "Name an empty or a new one with --dir."
            )
        for folder in (self.root, self.account, self.control, self.devices, self.sensors, self.logs):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise Refused(
                    f"{folder} cannot be made: {error.strerror}.", "Name another folder with --dir."
                ) from None

    def _foreign(self) -> str:
        """The name of something that no sandbox put here, or ""."""
        try:
            if self.state_file.exists():
                return ""
            found = sorted(entry.name for entry in self.root.iterdir())
        except OSError:
            return ""  # not there yet; or making the folders will say what is wrong
        written = tuple(f".{name}." for name in _HOLDS)  # an interrupted durable.write's own file
        return next((name for name in found if name not in _HOLDS and not name.startswith(written)), "")

    def read(self) -> State | None:
        """The recorded state, or None where no sandbox was ever started.

        Raises:
            InvalidDocument: the file is there and cannot be read as a sandbox's state. Refused: it cannot be opened.
        """
        try:
            document = json.loads(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(f"{self.state_file}: {error.strerror}.", "Name another folder with --dir.") from None
        except ValueError as error:
            raise InvalidDocument(
                f"{self.state_file} is not JSON: {error}.", "Remove the file and start again."
            ) from None
        try:
            if document["format"] != FORMAT:
                raise InvalidDocument(
                    f"{self.state_file} has format {document['format']}; this version reads format {FORMAT}.",
                    "Use another folder, or the Hybridge that wrote this one.",
                )
            return State(
                ports=Ports(
                    int(document["account_port"]), int(document["control_port"]), int(document["mqtt"]["port"])
                ),
                state=str(document["state"]),
                processes={name: Recorded(**entry) for name, entry in document["processes"].items()},
                buildspecs=str(document["buildspecs"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidDocument(
                f"{self.state_file} is not a sandbox's state ({error}).", "Remove the file and start again."
            ) from None

    def write(self, state: State) -> None:
        """Replace the recorded state, and the endpoints beside it."""
        document = {
            "format": FORMAT,
            "state": state.state,
            "region": REGION,
            "account_id": ACCOUNT_ID,
            "bucket": BUCKET,
            "account_port": state.ports.account,
            "control_port": state.ports.control,
            "mqtt": {"host": HOST, "port": state.ports.mqtt, "tls": True},
            "pids": {name: process.pid for name, process in state.processes.items()},
            "processes": {name: asdict(process) for name, process in state.processes.items()},
            "buildspecs": state.buildspecs,
        }
        lines = "".join(f"{key}={value}\n" for key, value in environment(state.ports).items())
        durable.write(self.environment_file, lines.encode())
        durable.write(self.state_file, json.dumps(document, indent=2).encode() + b"\n")


def locate(folder: Path | None) -> SandboxFolder:
    """The sandbox to use: the one named, else $HYBRIDGE_SANDBOX, else ~/.hybridge/sandbox.

    Raises:
        Refused: no sandbox can be there.
    """
    chosen = (folder or Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_FOLDER)).expanduser().absolute()
    if "'" in str(chosen) or not str(chosen).isprintable():
        # Recipes name paths between single quotes, in a shell.
        raise Refused(f"The folder {str(chosen)!r} has a quote or an unprintable character.", "Name another folder.")
    try:
        if chosen.exists() and not chosen.is_dir():
            raise Refused(f"{chosen} is not a folder.", "Name another one with --dir.")
    except OSError as error:
        raise Refused(f"{chosen} cannot be looked at: {error.strerror}.", "Name another folder with --dir.") from None
    return SandboxFolder(chosen)


def mark(folder: SandboxFolder) -> dict[str, str]:
    """What tells the processes of one sandbox from all others, in their environment."""
    return {MARK_VARIABLE: str(folder.root.resolve())}


def environment(ports: Ports) -> dict[str, str]:
    """The variables that lead any AWS SDK to this sandbox (botocore, service-specific endpoints)."""
    account = f"http://{HOST}:{ports.account}"
    control = f"http://{HOST}:{ports.control}"
    return {
        "AWS_ENDPOINT_URL": account,
        "AWS_ENDPOINT_URL_GREENGRASSV2": control,
        "AWS_ENDPOINT_URL_CODEPIPELINE": control,
        "AWS_ENDPOINT_URL_IOT_DATA_PLANE": account,
        "AWS_ACCESS_KEY_ID": "sandbox",
        "AWS_SECRET_ACCESS_KEY": "sandbox",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "HYBRIDGE_BUCKET": BUCKET,
    }


def process_environment(folder: SandboxFolder, ports: Ports) -> dict[str, str]:
    """The caller's environment for a process of the sandbox, with no AWS setting but the sandbox's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return {**kept, **environment(ports), ENVIRONMENT_VARIABLE: str(folder.root), **mark(folder)}
