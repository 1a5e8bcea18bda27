"""The embedded account: ministack in an environment of its own, as one loopback-only process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from hybridge_cloud.sandbox import logs, processes
from hybridge_cloud.sandbox.folder import HOST, REGION, Ports, SandboxFolder, mark
from hybridge_edge.contract.errors import Unavailable

PYTHON_VARIABLE = "HYBRIDGE_ACCOUNT_PYTHON"
READY_SECONDS = 60.0
ANSWER_SECONDS = 2.0
_CHECKOUT = Path(__file__).resolve().parents[3]


def python() -> Path:
    """The Python that has ministack: $HYBRIDGE_ACCOUNT_PYTHON, the checkout's .venv-account, else this one.

    Raises:
        Unavailable: none of them has it.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not os.access(named, os.X_OK):
            raise Unavailable(
                f"${PYTHON_VARIABLE} names {named}, which cannot be run.", "Name a Python that has ministack."
            )
        return Path(named)
    made = _CHECKOUT / ".venv-account" / "bin" / "python"
    if os.access(made, os.X_OK):
        return made
    if importlib.util.find_spec("ministack") is not None:
        return Path(sys.executable)
    raise Unavailable("The embedded account is not installed.", "Run scripts/setup, which makes its environment.")


def start(folder: SandboxFolder, ports: Ports) -> subprocess.Popen[bytes]:
    """Start the account's process; it logs to ``logs/account.log``."""
    settings = {
        "BIND_HOST": HOST,
        "GATEWAY_PORT": str(ports.account),
        "IOT_MTLS_PORT": str(ports.mqtt),
        "MINISTACK_REGION": REGION,
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder.account / "s3"),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder.account / "state"),
        "TMPDIR": str(folder.account / "tmp"),
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "HOME": str(folder.account),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
        **mark(folder),
    }
    for name in ("s3", "state", "tmp"):
        (folder.account / name).mkdir(mode=0o700, exist_ok=True)
    log = logs.open_log(folder.logs / "account.log")
    try:
        # -P: this folder's own modules must not shadow what the account imports.
        return subprocess.Popen(
            [str(python()), "-P", str(Path(__file__).with_name("loopback.py"))],
            cwd=folder.account,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


def wait_ready(
    process: subprocess.Popen[bytes], folder: SandboxFolder, ports: Ports, stopping: Callable[[], bool]
) -> None:
    """Wait until the account answers and its MQTT listener is bound.

    Raises:
        Unavailable: it ended, did not get ready in time, or is wanted no more.
    """
    log = folder.logs / "account.log"

    def settled() -> bool:
        return stopping() or process.poll() is not None or mqtt_state(ports) not in ("", "starting")

    if not processes.wait_until(settled, READY_SECONDS):
        raise Unavailable(f"The embedded account did not get ready in {READY_SECONDS:.0f} s.", f"Read {log}.")
    if stopping():
        raise Unavailable("The sandbox was told to stop while it started.")
    if process.poll() is not None:
        raise Unavailable(f"The embedded account ended with code {process.returncode} while starting.", f"Read {log}.")
    if (state := mqtt_state(ports)) != "listening":
        raise Unavailable(
            f"The embedded account's MQTT listener is {state}.", f"Run scripts/setup again, and read {log}."
        )


def mqtt_state(ports: Ports) -> str:
    """What the account says of its MQTT listener; "" while the account does not answer."""
    try:
        with urllib.request.urlopen(
            f"http://{HOST}:{ports.account}/_ministack/ready", timeout=ANSWER_SECONDS
        ) as answer:
            return str(json.load(answer)["iot_mtls"])
    except (OSError, ValueError):
        return ""


def certificate_authority(ports: Ports) -> bytes:
    """The PEM of the authority that signed the MQTT broker's certificate."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{ports.account}/_ministack/iot/ca.pem", timeout=30) as answer:
            return bytes(answer.read())
    except urllib.error.URLError as error:
        raise Unavailable(f"The embedded account gives no certificate authority ({error}).", "Read its log.") from None
