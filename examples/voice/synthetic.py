"""Sound that is free to give away: silence, noise, and vowels as a throat would make them.

The vowels are a train of pulses at the pitch of a voice, made dull as the vocal folds do, through three resonators
whose frequencies glide from one vowel to the next a few times a second. Frequencies: G. Peterson and H. Barney,
Control Methods Used in a Study of the Vowels (1952), men, rounded. It says nothing, and a voice detector takes it for
speech.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SYLLABLE_S = 0.22
_VOWELS = np.array([(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)])
_WIDTHS_HZ = (80, 100, 140)
_LOUD = 0.4


def silence(seconds: float) -> NDArray[np.int16]:
    """Zeros at 16 kHz."""
    return np.zeros(int(seconds * RATE), np.int16)


def noise(seconds: float, level: float = 0.01, seed: int = 1) -> NDArray[np.int16]:
    """White noise; ``level`` is its deviation, where 1 is full scale."""
    return _pcm(np.random.default_rng(seed).normal(size=int(seconds * RATE)) * level)


def speech(seconds: float, seed: int = 0) -> NDArray[np.int16]:
    """Gliding vowels, as loud as a voice near by; the same for the same seed."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    at = np.arange(count) / RATE
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * at) + 10 * np.sin(2 * np.pi * 2.3 * at)
    pulses = np.diff(np.floor(np.cumsum(pitch) / RATE), prepend=0.0) + 0.005 * rng.normal(size=count)
    sound = np.diff(_dulled(_dulled(pulses)), prepend=0.0)
    syllable = at / SYLLABLE_S
    place = syllable.astype(int)
    chosen = rng.integers(0, len(_VOWELS), size=int(place[-1]) + 2)
    glide = np.minimum((syllable - place) * 2, 1.0)[:, None]
    formants = _VOWELS[chosen[place]] * (1 - glide) + _VOWELS[chosen[place + 1]] * glide
    for number, width in enumerate(_WIDTHS_HZ):
        sound = _resonated(sound, formants[:, number], width)
    sound = sound * np.clip(1.3 * np.abs(np.sin(np.pi * syllable)), 0, 1)
    return _pcm(sound / np.abs(sound).max() * _LOUD)


def _pcm(sound: NDArray[np.float64]) -> NDArray[np.int16]:
    return np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)


def _dulled(sound: NDArray[np.float64]) -> NDArray[np.float64]:
    made, last = np.empty_like(sound), 0.0
    for place, value in enumerate(sound.tolist()):
        last = 0.95 * last + value
        made[place] = last
    return made


def _resonated(sound: NDArray[np.float64], frequency: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Through a resonator of two poles, as loud at its bottom as before."""
    radius = float(np.exp(-np.pi * width / RATE))
    turns = (2 * radius * np.cos(2 * np.pi * frequency / RATE)).tolist()
    made, one, two = np.empty_like(sound), 0.0, 0.0
    for place, (value, turn) in enumerate(zip(sound.tolist(), turns, strict=True)):
        one, two = (1 - turn + radius * radius) * value + turn * one - radius * radius * two, one
        made[place] = one
    return made
