"""Held-out digits for a camera, and what came of them.

    python examples/camera/play.py frames FOLDER [--count 200]     FOLDER/0000.png .. and FOLDER/labels.json
    python examples/camera/play.py score FOLDER < RESULTS          accuracy of a pipeline's results, one a line
    python examples/camera/play.py jpeg FILE                       one of them as a JPEG

Frames are PNG in colour, 28 x 28: what OpenCV reads from them is what a camera with that picture before it would give.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from hybridge_edge.contract.errors import HybridgeError, UsageError

LABELS = "labels.json"
MAX_LINE = 64 * 1024


def frames(folder: Path, count: int) -> int:
    """Write ``count`` of the frozen digits, which no training saw, of all kinds, and their labels. Returns how many."""
    digits = importlib.import_module("digits").load()["frozen"]
    folder.mkdir(parents=True)
    rows = np.linspace(0, len(digits.labels) - 1, min(count, len(digits.labels))).astype(int)  # they lie in order
    for number, row in enumerate(rows):
        Image.fromarray(digits.pixels[row]).convert("RGB").save(folder / f"{number:04}.png")
    (folder / LABELS).write_text(json.dumps(digits.labels[rows].tolist()))
    return len(rows)


def jpeg(path: Path) -> None:
    """Write the first frozen digit."""
    digits = importlib.import_module("digits").load()["frozen"]
    Image.fromarray(digits.pixels[0]).save(path, "JPEG", quality=90)


def score(folder: Path, lines: Iterable[str]) -> tuple[int, int, int]:
    """How many results were right, how many there were, and how many frames there are.

    The last part of a sample id is the frame's number. Raises UsageError where a line is no result of these frames.
    """
    labels = json.loads((folder / LABELS).read_text())
    answered: dict[int, bool] = {}
    for line in lines:
        try:
            fields = json.loads(line[:MAX_LINE])
            number = int(fields["sample_id"].rpartition("/")[2])
            answered[number] = fields["class"] == labels[number]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UsageError(f"A line is no result of these frames: {error}.", "Give a pipeline's output.") from None
    return sum(answered.values()), len(answered), len(labels)


def main() -> int:
    parser = argparse.ArgumentParser(description="Held-out digits for a camera, and what came of them.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    writes = verbs.add_parser("frames", help="write frames and labels")
    writes.add_argument("folder", type=Path)
    writes.add_argument("--count", type=int, default=200)
    verbs.add_parser("score", help="results on stdin against the labels").add_argument("folder", type=Path)
    verbs.add_parser("jpeg", help="write one as a JPEG").add_argument("file", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.verb == "frames":
            print(f"{frames(arguments.folder, arguments.count)} frames in {arguments.folder}")
            return 0
        if arguments.verb == "jpeg":
            jpeg(arguments.file)
            return 0
        right, answered, of = score(arguments.folder, sys.stdin)
    except (HybridgeError, OSError) as error:
        print(f"play: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 1)
    print(f"{answered} of {of} frames answered, {right} right: accuracy {right / max(answered, 1):.3f}")
    return 0 if answered else 1


if __name__ == "__main__":
    sys.exit(main())
