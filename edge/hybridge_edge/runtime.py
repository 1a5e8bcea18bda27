"""The runtime folder: where the sockets of one device lie, and how its components find each other.

Unix socket paths are limited to 107 bytes (unix(7)), so the folder is short whatever the nucleus' root is.
"""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from hybridge_edge import durable
from hybridge_edge.contract.document import canonical, parse
from hybridge_edge.contract.errors import Refused, Unavailable

ENROLLED = Path("/run/hybridge")
INFERENCE_SOCKET = "inference.sock"
NETWORK_SOCKET = "network.sock"
"""Where the front brings calls from the network."""
DIRECT_SOCKET = "direct.sock"
"""For clients of ours on the device."""
MANAGEMENT_SOCKET = "management.sock"
ENDPOINT_FILE = "endpoint.json"
SOCKET_MODE = 0o660
"""Of the sockets of this device's own programs."""
_NUCLEUS = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"


def folder() -> Path:
    """The runtime folder of this device, made if need be, 0700 and ours.

    In order: ``HYBRIDGE_RUNTIME_DIR``; ``/run/hybridge`` where enrolment made it for this user; else a folder under
    /tmp named by the nucleus' socket, which is one per device and known to each of its components.

    Raises:
        Refused: the folder exists and belongs to somebody else, is a link, or is open to others.
    """
    given = os.environ.get("HYBRIDGE_RUNTIME_DIR")
    if given:
        return _private(Path(given))
    if ENROLLED.is_dir() and ENROLLED.stat().st_uid == os.getuid():
        return ENROLLED
    return of_nucleus(os.environ.get(_NUCLEUS, ""))


def of_nucleus(socket: str) -> Path:
    """The runtime folder of the device whose nucleus listens on ``socket``, where enrolment made none."""
    import hashlib  # see contract.document.sha256

    device = hashlib.sha256(socket.encode()).hexdigest()[:8]
    return _private(_private(Path(f"/tmp/hybridge-{os.getuid()}")) / device)  # noqa: S108  owner and mode are checked


def listen(path: Path, waiting: int, mode: int = SOCKET_MODE) -> socket.socket:
    """A Unix socket that listens at ``path``, under 107 bytes and in a folder of ours; what lies there is replaced.

    Raises:
        Unavailable: it cannot be had.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(waiting)
    except OSError as error:
        listener.close()
        raise Unavailable(f"The server cannot listen on {path}: {error}.", "Set HYBRIDGE_RUNTIME_DIR.") from None
    return listener


def _private(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        pass
    except OSError as error:
        raise Refused(
            f"The runtime folder {path} cannot be made: {error.strerror}.",
            "Name another one with HYBRIDGE_RUNTIME_DIR.",
        ) from None
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(
            f"The runtime folder {path} is not a folder of this user with mode 0700.",
            "Remove it, or name another one with HYBRIDGE_RUNTIME_DIR.",
        )
    return path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a running server listens and spools; ``tcp`` is HOST:PORT, or "" where TCP is off."""

    inference: str
    tcp: str
    management: str
    spool: str
    pid: int

    def write(self, runtime_folder: Path) -> None:
        """Publish it as endpoint.json, replaced whole."""
        fields = {
            "inference": self.inference,
            "tcp": self.tcp,
            "management": self.management,
            "spool": self.spool,
            "pid": self.pid,
        }
        durable.write(runtime_folder / ENDPOINT_FILE, canonical(fields))

    @classmethod
    def read(cls, runtime_folder: Path) -> Endpoint:
        """Read endpoint.json. Raises Unavailable where no server has started here."""
        try:
            data = (runtime_folder / ENDPOINT_FILE).read_bytes()
        except FileNotFoundError:
            raise Unavailable(
                f"No server has started in {runtime_folder}.", "Start it with hybridge-edge serve."
            ) from None
        reader = parse(data, "endpoint file")
        endpoint = cls(
            reader.text("inference"),
            reader.text("tcp"),
            reader.text("management"),
            reader.text("spool"),
            reader.integer("pid"),
        )
        reader.close()
        return endpoint
