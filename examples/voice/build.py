"""Builds the package, and a sound to try it with::

python -m examples.voice.build --out try/voice-1.0.0 --wav try/voice.wav
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from examples.voice.audio import write_wav
from examples.voice.model import build
from examples.voice.synthetic import noise, silence, speech

from hybridge_edge.contract.errors import HybridgeError


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.voice.build", description="Builds the voice package.")
    parser.add_argument("--out", type=Path, required=True, help="the package's folder; it must not exist yet")
    parser.add_argument("--wav", type=Path, help="a WAV file to write: silence, vowels, noise, vowels, silence")
    asked = parser.parse_args(arguments)
    try:
        manifest = build(asked.out)
        if asked.wav is not None:
            write_wav(asked.wav, np.concatenate([silence(1), speech(2), noise(1.5), speech(1.5, seed=5), silence(1)]))
    except HybridgeError as error:
        print(f"build: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{manifest.name} {manifest.version}, digest {manifest.digest}, is in {asked.out}")
    print(f"next: hybridge package sign {asked.out} --key KEY")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
