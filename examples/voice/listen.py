"""Streams sound to this device's server and says when somebody speaks::

python -m examples.voice.listen sound.wav        in real time, by the sound's own clock
python -m examples.voice.listen sound.wav --fast as fast as the server answers
python -m examples.voice.listen --microphone
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.voice.audio import WINDOW_S, Window, microphone, paced, wav_windows
from examples.voice.segments import Segment, Segments

from hybridge_edge.client import Client
from hybridge_edge.contract.errors import HybridgeError, UsageError

MODEL = "voice"


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a sound: a probability a window; how long the answers took, seconds, the longest."""

    probabilities: tuple[float, ...]
    segments: tuple[Segment, ...]
    slowest_s: float


def listen(client: Client, windows: Iterator[Window], tell: Callable[[Segment], None], model: str = MODEL) -> Heard:
    """Ask the server about one window after another, as one sequence. Raises HybridgeError as the client does.

    The features are the sound itself, so no sample of it is left to the device to keep.
    """
    segments, probabilities, found, slowest = Segments(), [], [], 0.0

    def note(segment: Segment | None) -> None:
        if segment is not None:
            found.append(segment)
            tell(segment)

    with client.sequence(model) as sequence:
        for window in windows:
            begun = time.monotonic()
            answer = sequence.infer({"pcm": window}, capture=False)
            slowest = max(slowest, time.monotonic() - begun)
            probabilities.append(float(answer.outputs["output"][0, 0]))
            note(segments.add(probabilities[-1]))
    note(segments.end())
    return Heard(tuple(probabilities), tuple(found), slowest)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.voice.listen", description="Says when somebody speaks.")
    parser.add_argument("wav", nargs="?", type=Path, help="a WAV file: 16 kHz, mono, 16 bits")
    parser.add_argument("--microphone", action="store_true", help="this machine's microphone, until Ctrl-C")
    parser.add_argument("--fast", action="store_true", help="do not wait for the sound's own clock")
    parser.add_argument("--server", default="", help="where the server listens; this device's own by default")
    asked = parser.parse_args(arguments)
    try:
        if asked.microphone == (asked.wav is not None):
            raise UsageError("Say what to listen to.", "Name a WAV file, or --microphone.")
        windows = microphone() if asked.microphone else wav_windows(asked.wav)
        if asked.wav is not None and not asked.fast:
            windows = paced(windows)
        with Client(asked.server) as client:
            heard = listen(client, windows, _say)
    except KeyboardInterrupt:
        return 0
    except HybridgeError as error:
        print(f"listen: {error}", file=sys.stderr)
        return error.exit_code
    seconds = len(heard.probabilities) * WINDOW_S
    print(
        f"{len(heard.segments)} stretches of speech in {seconds:.2f} s, {len(heard.probabilities)} windows; "
        f"the slowest answer took {heard.slowest_s * 1000:.1f} ms, a window lasts {WINDOW_S * 1000:.0f} ms"
    )
    return 0


def _say(found: Segment) -> None:
    print(f"speech {found.begin:7.2f} to {found.end:7.2f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
