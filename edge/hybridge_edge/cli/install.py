"""``hybridge-edge install``: a package from a file, a folder or an object store, into the running server."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from hybridge_edge import s3_access, trust
from hybridge_edge.cli.talk import ACT_S, tell, wait_for_server
from hybridge_edge.configuration import Configuration
from hybridge_edge.contract.document import canonical, sha256
from hybridge_edge.contract.errors import PackageRefused, Unavailable, UsageError
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.states import PackageState
from hybridge_edge.package import read_small
from hybridge_edge.unpack import RESERVE_BYTES, folder_of, unpack

WAIT_S = 10.0
MAX_WAIT_S = 3600.0
BUILDING_S = 1800.0
"""How long an installation may take in all: an engine for a large model is built in minutes."""
_LOOK_AGAIN_S = 2.0
_S3 = "s3://"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a package's zip or folder, or the model.zip of its component; or s3://BUCKET/KEY")
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, help=f"seconds for a server that is still starting (default {WAIT_S:g})"
    )
    s3_access.add_arguments(parser.add_argument_group("where s3://BUCKET/KEY is"))


def run(arguments: argparse.Namespace) -> int:
    """Install, and say what became of it: exit code 0 when it answers."""
    path = Path(arguments.file).absolute()
    if not 0.0 <= arguments.wait <= MAX_WAIT_S:
        raise UsageError(f"--wait is {arguments.wait:g}.", f"Write seconds from 0 to {MAX_WAIT_S:g}.")
    if arguments.file.startswith(_S3):
        with tempfile.TemporaryDirectory(prefix="hybridge-fetch-") as temporary:
            return _install(_fetch(arguments, Path(temporary)), arguments.wait)
    if path.is_dir():
        wait_for_server(arguments.wait)
        return _hand_over(folder_of(path))
    return _install(path, arguments.wait)


def _install(path: Path, wait: float) -> int:
    with tempfile.TemporaryDirectory(prefix="hybridge-install-") as temporary:
        package = unpack(path, Path(temporary), trust.read_trust())
        wait_for_server(wait)
        return _hand_over(package.folder)


def _fetch(arguments: argparse.Namespace, folder: Path) -> Path:
    """The zip in an object store, which is believed no more than one on a stick. Raises UsageError, Refused."""
    name, slash, key = arguments.file.removeprefix(_S3).partition("/")
    if not slash or not key:
        raise UsageError(f"{arguments.file[:200]!r} names no object.", "Write s3://BUCKET/KEY.")
    from hybridge_edge.s3 import Bucket

    bucket = Bucket(name, access=s3_access.Access.read(Configuration(s3_access.given(arguments))))
    path = folder / "package.zip"
    bucket.fetch(key, path, max(0, shutil.disk_usage(folder).free - RESERVE_BYTES))
    return path


def _hand_over(folder: Path) -> int:
    content = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    model = Manifest.from_bytes(content).name
    line = canonical({"verb": "install", "model": model, "package": str(folder), "digest": sha256(content)})
    until = time.monotonic() + BUILDING_S
    while True:
        reader, _ = tell(line, ACT_S)
        state, version, reason = PackageState(reader.text("state")), reader.text("version"), reader.text("reason")
        if state is not PackageState.BUILDING:
            break
        # The folder must stay until the server has it. Asking again waits behind what it does.
        if time.monotonic() > until:
            raise Unavailable(f"{model} is still being built after {BUILDING_S:.0f} s.", "See hybridge-edge status.")
        time.sleep(_LOOK_AGAIN_S)
    if state is not PackageState.ACTIVE:
        how = "Deploy it, or roll back to it: only a later deployment lifts a quarantine."
        raise PackageRefused(
            f"{model} {version} is {state.value}: {reason}", how if state is PackageState.QUARANTINED else ""
        )
    print(f"{model} {version} is {state.value} at epoch {reader.integer('epoch')}, until the next deployment")
    return 0
