"""Hands a model's package to the inference server. Runs on the device. Standard library only, Python >= 3.10.

    python3 activate.py --rollout ID --epoch N --mode activate

The package lies beside this file. One JSON line goes to the server's management socket, one comes back. The exit code
speaks to the nucleus, which counts it as the component's health:

    0  the package is ACTIVE, SHADOW, STAGED or BUILDING; or this is not news: superseded by a higher epoch, quarantined
       on this device, refused before, retired as asked
    1  the server refused a package it never saw before: this deployment fails
    2  this program was called wrongly, or no package lies beside it
    75 no server answered in time; the nucleus runs this again
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import stat
import sys
import time
from pathlib import Path
from typing import Any

WAIT_SECONDS = 1500.0
"""How long to wait for a server. Nobody waits for this program, and a nucleus gives a component up after three failures
in an hour: with 25 minutes each, a server that is long in coming never breaks the model component."""
ANSWER_SECONDS = 120.0
"""How long one hand-over may take; the server bounds its own part at 60 s."""
PAUSE_SECONDS = 0.25
MAX_LINE_BYTES = 64 * 1024
ENROLLED = Path("/run/hybridge")
MANAGEMENT_SOCKET = "management.sock"
NUCLEUS = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
HANDED_OVER = ("ACTIVE", "SHADOW", "STAGED", "BUILDING")
TRY_AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "BUSY")
EXIT_NO_SERVER = 75


class NoServer(Exception):
    """Nothing answers yet: the reason, for the log."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Hand a model's package to the inference server.")
    parser.add_argument("--rollout", default="none")
    parser.add_argument("--epoch", type=float, default=0.0, help="a nucleus may write 3 as 3.0000")
    parser.add_argument("--mode", default="activate", choices=("activate", "stage", "shadow", "retire"))
    parser.add_argument("--wait-seconds", type=float, default=WAIT_SECONDS)
    arguments = parser.parse_args()
    if arguments.epoch < 0 or arguments.epoch != int(arguments.epoch):
        parser.error("--epoch is a whole number from 0")
    package = Path(__file__).resolve().parent / "package"
    try:
        line = hand_over_line(package, arguments.rollout, int(arguments.epoch), arguments.mode)
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(f"{package} holds no package ({error}): the artifact was not unpacked whole; deploy the component again")
        return 2
    deadline = time.monotonic() + arguments.wait_seconds
    said = ""
    while True:
        try:
            return verdict(exchange(line, deadline))
        except NoServer as reason:
            if str(reason) != said:  # once a reason, not four times a second
                said = str(reason)
                say(f"waiting for the inference server: {said}")
        if time.monotonic() + PAUSE_SECONDS > deadline:
            say(f"no inference server answered within {arguments.wait_seconds:.0f} s: {said}")
            return EXIT_NO_SERVER
        time.sleep(PAUSE_SECONDS)


def hand_over_line(package: Path, rollout: str, epoch: int, mode: str) -> bytes:
    """The hand-over, as hybridge_edge.contract.handover.Handover writes it."""
    manifest = (package / "manifest.json").read_bytes()
    fields = {
        "verb": "activate",
        "model": json.loads(manifest)["name"],
        "package": str(package),
        "digest": "sha256:" + hashlib.sha256(manifest).hexdigest(),
        "rollout": rollout,
        "epoch": epoch,
        "mode": mode,
    }
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def runtime_folder() -> Path:
    """Where the server's sockets lie: the rule of hybridge_edge.runtime.folder, without making anything.

    Raises:
        NoServer: the folder is not there yet, or is not this user's alone.
    """
    given = os.environ.get("HYBRIDGE_RUNTIME_DIR")
    if given:
        return private(Path(given))
    if ENROLLED.is_dir() and ENROLLED.stat().st_uid == os.getuid():
        return ENROLLED
    device = hashlib.sha256(os.environ.get(NUCLEUS, "").encode()).hexdigest()[:8]
    return private(private(Path(f"/tmp/hybridge-{os.getuid()}")) / device)  # noqa: S108  owner and mode are checked


def private(path: Path) -> Path:
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise NoServer(f"{path} is not there yet") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise NoServer(f"{path} is not a folder of this user with mode 0700")
    return path


def exchange(line: bytes, deadline: float) -> dict[str, Any]:
    """Send the line, return the answer. Raises NoServer where the server is not there, is busy or went away."""
    path = runtime_folder() / MANAGEMENT_SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(max(0.1, min(ANSWER_SECONDS, deadline - time.monotonic())))
            connection.connect(str(path))
            connection.sendall(line)
            received = b""
            while not received.endswith(b"\n") and len(received) <= MAX_LINE_BYTES:
                part = connection.recv(65536)
                if not part:
                    break
                received += part
    except OSError as error:
        raise NoServer(f"{path}: {error.strerror or error or type(error).__name__}") from None
    if not received.endswith(b"\n"):
        raise NoServer(f"{path}: the connection ended before an answer")
    try:
        answer = json.loads(received)
    except ValueError:
        raise NoServer(f"{path}: the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise NoServer(f"{path}: the answer is not a JSON object")
    if answer.get("ok") is not True and answer.get("error") in TRY_AGAIN:
        raise NoServer(f"{answer.get('error')}: {answer.get('message', '')}")
    return answer


def verdict(answer: dict[str, Any]) -> int:
    """Say what became of the package, and return the exit code."""
    if answer.get("ok") is not True:
        say(f"refused: {answer.get('error')}: {answer.get('message', '')} {answer.get('remedy', '')}".rstrip())
        return 1
    state, reason = str(answer.get("state", "")), str(answer.get("reason", ""))
    what = f"{answer.get('model')} {answer.get('version')} ({answer.get('digest')}), epoch {answer.get('epoch')}"
    say(f"{state}: {what}{': ' + reason if reason else ''}")
    if state in HANDED_OVER:
        return 0
    if state == "REFUSED" and answer.get("seen_before") is not True:
        return 1
    return 0  # retired, quarantined, or refused before: reported, and no reason to fail a deployment


def say(text: str) -> None:
    print(f"activate: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
