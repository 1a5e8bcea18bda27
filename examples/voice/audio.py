"""Where sound comes from, as windows of 512 samples at 16 kHz: a WAV file at its own pace, or a microphone."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybridge_edge.contract.errors import Refused, Unavailable, UsageError

RATE = 16_000
WINDOW = 512
WINDOW_S = WINDOW / RATE
Window = NDArray[np.int16]
"""(1, 512), as the model takes it."""
_CONVERT = "Convert it, such as: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav."


def windows_of(pcm: NDArray[np.int16]) -> Iterator[Window]:
    """Whole windows of (samples,); what is left at the end is left out."""
    for first in range(0, len(pcm) - WINDOW + 1, WINDOW):
        yield pcm[first : first + WINDOW].reshape(1, WINDOW)


def wav_windows(path: Path) -> Iterator[Window]:
    """The windows of a WAV file, 16 kHz, mono, 16 bits; the last one is filled up with silence, as Silero does.

    Raises:
        UsageError: there is none, or it is of another kind; before the first window.
    """
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115  closed by the generator
    except (OSError, EOFError, wave.Error) as error:
        raise UsageError(f"{str(path)!r} cannot be read as WAV: {error}.", _CONVERT) from None
    kind = (file.getframerate(), file.getnchannels(), file.getsampwidth())
    if kind != (RATE, 1, 2):
        file.close()
        raise UsageError(
            f"{path.name} has {kind[0]} Hz, {kind[1]} channels, {kind[2] * 8} bits; the model takes {RATE} Hz, 1, 16.",
            _CONVERT,
        )
    return _frames(file)


def _frames(file: wave.Wave_read) -> Iterator[Window]:
    with file:
        while data := file.readframes(WINDOW):
            yield np.frombuffer(data.ljust(WINDOW * 2, b"\0"), "<i2").reshape(1, WINDOW)


def write_wav(path: Path, pcm: NDArray[np.int16]) -> None:
    """(samples,) at 16 kHz as a file that ``wav_windows`` reads."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm.astype("<i2").tobytes())


def paced(
    windows: Iterator[Window],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Window]:
    """Each window when its last sample would have been heard, by the sound's own clock: no delay adds up.

    Who takes them too late gets the next ones at once until they are in time again.
    """
    begun = clock()
    for number, window in enumerate(windows, start=1):
        early = begun + number * WINDOW_S - clock()
        if early > 0:
            sleep(early)
        yield window


def microphone() -> Iterator[Window]:
    """Windows from this machine's microphone, by ``arecord`` (alsa-utils) or the Python package ``sounddevice``.

    Raises:
        Unavailable: neither is there. Refused: it hears nothing, with what it said.
    """
    if shutil.which("arecord"):
        return _arecord()
    if importlib.util.find_spec("sounddevice") is not None:
        return _sounddevice()
    raise Unavailable(
        "This machine has neither arecord nor the Python package sounddevice.",
        "Install alsa-utils, or pip install sounddevice; or name a WAV file.",
    )


def _arecord() -> Iterator[Window]:
    command = ["arecord", "--quiet", "--format=S16_LE", "--channels=1", f"--rate={RATE}", "--file-type=raw"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as recorder:
        assert recorder.stdout is not None
        assert recorder.stderr is not None
        try:
            while len(data := recorder.stdout.read(WINDOW * 2)) == WINDOW * 2:
                yield np.frombuffer(data, "<i2").reshape(1, WINDOW)
            said = recorder.stderr.read(1000).decode(errors="replace").strip().splitlines()
            raise Refused(f"arecord ended: {said[-1] if said else 'it said nothing'}.", "See arecord --list-devices.")
        finally:
            recorder.terminate()


def _sounddevice() -> Iterator[Window]:
    import sounddevice  # its own native library may be missing, which it says itself

    device: Any = sounddevice
    try:
        with device.RawInputStream(samplerate=RATE, channels=1, dtype="int16", blocksize=WINDOW) as stream:
            while True:
                data, _ = stream.read(WINDOW)
                yield np.frombuffer(bytes(data), "<i2").reshape(1, WINDOW)
    except device.PortAudioError as error:
        raise Refused(f"The microphone cannot be had: {error}.", "See python -m sounddevice.") from None
