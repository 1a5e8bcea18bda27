"""Which shoulder exercise is this? Four seconds of a smartwatch's six channels in, seven probabilities out."""

from __future__ import annotations

import json
from math import pi
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hybridge_cloud.training.task import Arrays, Dataset, Samples, Task
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.contract.tensors import TensorSpec

from .recordings import CHANNELS, EXERCISES, WINDOW_STEPS, Recording, cut, load

HOP_STEPS = 50  # one window a second in the field
TRAIN_HOP_STEPS = 25  # more overlap where it only costs training time
FIELD_SHARE = 0.6  # of a new person's recording is replayed; the rest is the frozen slice
TRAIN_SHARE = 0.8  # of a known person's recording; the rest validates
FRAME_STEPS, FRAME_HOP_STEPS, BINS = 64, 32, 16  # spectra: 1.28 s frames, 0.78 to 12.5 Hz
TINY = 1e-6


class Features(nn.Module):
    """(rows, 200, 6) -> (rows, FEATURES): moments, gravity, correlations and log power, nothing learnt."""

    basis: Tensor
    upper: Tensor

    def __init__(self) -> None:
        super().__init__()
        angle = 2 * pi / FRAME_STEPS * torch.arange(1, BINS + 1)[:, None] * torch.arange(FRAME_STEPS)
        waves = torch.cat([angle.cos(), angle.sin()]) * torch.hann_window(FRAME_STEPS)
        self.register_buffer("basis", waves[:, None])  # a short-time Fourier transform as a convolution
        rows, columns = torch.triu_indices(len(CHANNELS), len(CHANNELS), 1)
        self.register_buffer("upper", rows * len(CHANNELS) + columns)

    def forward(self, window: Tensor) -> Tensor:
        x = window.transpose(1, 2)
        mean = x.mean(2)
        centred = x - mean[:, :, None]
        deviation = torch.sqrt((centred * centred).mean(2) + TINY)
        scaled = centred / deviation[:, :, None]
        square = scaled * scaled
        moments = [mean, deviation, x.amin(2), x.amax(2), (square * scaled).mean(2), (square * square).mean(2)]
        jerk = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(2)
        gravity = mean[:, :3] / torch.sqrt((mean[:, :3] * mean[:, :3]).sum(1, keepdim=True) + TINY)
        size = torch.sqrt((x * x).reshape(-1, 2, 3, WINDOW_STEPS).sum(2) + TINY)  # of acceleration, of rotation
        spread = size - size.mean(2, keepdim=True)
        sizes = [size.mean(2), size.amax(2), torch.sqrt((spread * spread).mean(2) + TINY)]
        correlation = (torch.matmul(scaled, scaled.transpose(1, 2)) / WINDOW_STEPS).flatten(1)[:, self.upper]
        waves = nn.functional.conv1d(centred.reshape(-1, 1, WINDOW_STEPS), self.basis, stride=FRAME_HOP_STEPS)
        power = (waves * waves).mean(2).reshape(-1, len(CHANNELS), 2, BINS).sum(2)
        return torch.cat([*moments, jerk, gravity, *sizes, correlation, torch.log(power + 1e-3).flatten(1)], 1)


FEATURES = 7 * len(CHANNELS) + 3 + 6 + 15 + len(CHANNELS) * BINS


class WatchTask(Task):
    """Seven exercises from one watch; split by person, and by time for the people the model has not seen."""

    inputs: ClassVar = (TensorSpec("window", "FP32", (-1, WINDOW_STEPS, len(CHANNELS)), "g and rad/s at 50 Hz"),)
    labels: ClassVar = EXERCISES

    def features(self) -> nn.Module:
        return Features()

    def model(self) -> nn.Module:
        layers: list[nn.Module] = [nn.BatchNorm1d(FEATURES)]
        for width, following in ((FEATURES, 128), (128, 128)):
            layers += [nn.Linear(width, following), nn.BatchNorm1d(following), nn.ReLU(), nn.Dropout(0.3)]
        return nn.Sequential(*layers, nn.Linear(128, len(EXERCISES)))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, label_smoothing=0.05)

    def dataset(self, split: int) -> Dataset:
        splits = json.loads(Path(__file__).with_name("splits.json").read_text())
        if not 0 <= split < len(splits):
            raise UsageError(f"Split {split} does not exist.", f"Choose one of 0 to {len(splits) - 1}.")
        recordings = load()
        known = [recording for recording in recordings if recording.person in splits[split]["train"]]
        new = [recording for recording in recordings if recording.person in splits[split]["new"]]
        return Dataset(
            train=_samples(known, 0.0, TRAIN_SHARE, TRAIN_HOP_STEPS),
            valid=_samples(known, TRAIN_SHARE, 1.0, HOP_STEPS),
            frozen=_samples(new, FIELD_SHARE, 1.0, HOP_STEPS),
            replay=_samples(new, 0.0, FIELD_SHARE, HOP_STEPS),
        )

    def metrics(self, outputs: Arrays, labels: NDArray[np.int64]) -> dict[str, float]:
        answers = outputs["probabilities"].argmax(1)
        recalls = [float((answers[labels == label] == label).mean()) for label in np.unique(labels)]
        return {"accuracy": float((answers == labels).mean()), "balanced_accuracy": float(np.mean(recalls))}


def _samples(recordings: list[Recording], begin: float, end: float, hop: int) -> Samples:
    rows = [(*row, recording) for recording in recordings for row in cut(recording, begin, end, hop)]
    return Samples(
        ids=np.array([name for name, _, _ in rows]),
        inputs={"window": np.stack([window for _, window, _ in rows])},
        labels=np.array([recording.exercise for _, _, recording in rows], np.int64),
        groups=np.array([f"watch/{recording.number}" for _, _, recording in rows]),
    )
