"""The core device's own process: arguments, log, signals."""

from __future__ import annotations

import argparse
import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from pathlib import Path

from hybridge_cloud.sandbox.device.core import CoreDevice
from hybridge_cloud.sandbox.device.log_upload import LogUpload
from hybridge_cloud.sandbox.device.mode import Limits, Mode, limits_of
from hybridge_cloud.sandbox.folder import REGION
from hybridge_edge.contract.errors import HybridgeError, UsageError
from hybridge_edge.contract.names import thing_name
from hybridge_edge.contract.trust_document import TRUST_VARIABLE

ENDPOINT = "AWS_ENDPOINT_URL_GREENGRASSV2"
NUCLEUS_LOG = "greengrass.log"
TRUST_FILE = "trust.json"


def main(arguments: list[str] | None = None) -> int:
    """Run one core device until SIGTERM or SIGINT; 0, or 1 or 2 with one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m hybridge_cloud.sandbox.device", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds everything of this device")
    parser.add_argument("--thing", required=True, help="its name in AWS IoT")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), required=True, help="the nucleus it follows")
    given = parser.parse_args(arguments)
    limits = limits_of(given.mode)
    try:
        endpoint = os.environ.get(ENDPOINT, "")
        if not endpoint:
            raise UsageError(f"{ENDPOINT} is not set.", "Start the device with the sandbox's environment.")
        serve(given.root.resolve(), thing_name(given.thing), given.mode, limits, endpoint)
    except HybridgeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def serve(root: Path, thing: str, mode: Mode, limits: Limits, endpoint: str) -> None:
    """Be a core device until SIGTERM or SIGINT; takes this process' log and trust variable. Raises HybridgeError."""
    os.environ[TRUST_VARIABLE] = str(root / TRUST_FILE)
    _log_to(root / "logs", limits)
    asyncio.run(_serve(root, thing, mode, limits, endpoint))


async def _serve(root: Path, thing: str, mode: Mode, limits: Limits, endpoint: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    upload = LogUpload(root / "logs", thing, os.environ.get("AWS_REGION", REGION), frozenset({NUCLEUS_LOG}))
    upload.start()
    try:
        await CoreDevice(root, thing, mode, limits, endpoint).run(stop)
    finally:
        upload.close()


def _log_to(folder: Path, limits: Limits) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(folder / NUCLEUS_LOG, maxBytes=limits.log_bytes, backupCount=1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])
    for chatty in ("botocore", "urllib3", "s3transfer"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
