"""``hybridge-edge activate``: what a model component does, by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from hybridge_edge.cli.talk import tell, wait_for_server
from hybridge_edge.contract.document import Reader, canonical, sha256
from hybridge_edge.contract.errors import PackageRefused, UsageError
from hybridge_edge.contract.handover import BY_HAND, Handover
from hybridge_edge.contract.manifest import MAX_MANIFEST_BYTES, Manifest
from hybridge_edge.contract.package_file import MANIFEST_FILE
from hybridge_edge.contract.states import HANDED_OVER, Mode, PackageState
from hybridge_edge.package import read_small

TIMEOUT_S = 75.0
"""Longer than the server takes at most (activation.ANSWER_WITHIN_S)."""
WAIT_S = 10.0
MAX_WAIT_S = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, help="the package's folder")
    parser.add_argument("--rollout", default=BY_HAND, help=f"who asks (default {BY_HAND})")
    parser.add_argument("--epoch", type=int, help="default: one more than the model's last")
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, help=f"seconds for a server that is still starting (default {WAIT_S:g})"
    )
    parser.add_argument("--mode", default="activate", choices=[mode.value for mode in Mode])


def run(arguments: argparse.Namespace) -> int:
    """Hand the package over and say what became of it: exit code 0 unless it is refused."""
    folder: Path = arguments.package.absolute()
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", "Name the folder that holds manifest.json.")
    content = read_small(folder, MANIFEST_FILE, MAX_MANIFEST_BYTES)
    model = Manifest.from_bytes(content).name
    if not 0.0 <= arguments.wait <= MAX_WAIT_S:
        raise UsageError(f"--wait is {arguments.wait:g}.", f"Write seconds from 0 to {MAX_WAIT_S:g}.")
    wait_for_server(arguments.wait)
    epoch = arguments.epoch if arguments.epoch is not None else _next_epoch(model)
    if epoch < 0:
        raise UsageError(f"The epoch {epoch} is negative.", "Write a whole number from 0.")
    handover = Handover(model, str(folder), sha256(content), arguments.rollout, epoch, Mode(arguments.mode))
    reader, _ = tell(handover.to_line(), TIMEOUT_S)
    state, version, reason = PackageState(reader.text("state")), reader.text("version"), reader.text("reason")
    if state not in HANDED_OVER and state is not PackageState.RETIRED:
        raise PackageRefused(f"{model} {version} is {state.value}: {reason}")
    print(f"{model} {version} is {state.value} at epoch {epoch}")
    return 0


def _next_epoch(model: str) -> int:
    reader, _ = tell(canonical({"verb": "list"}), TIMEOUT_S)
    epochs = dict(reader.objects("models", _epoch))
    return epochs.get(model, 0) + 1


def _epoch(reader: Reader) -> tuple[str, int]:
    for unused in set(reader.names()) - {"model", "epoch"}:
        reader.ignore(unused)
    return reader.text("model"), reader.integer("epoch")
