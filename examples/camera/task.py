"""Which digit is this? A JPEG of 28 x 28 pixels in, ten probabilities out."""

from __future__ import annotations

import io
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hybridge_cloud.training.task import Arrays, Dataset, Samples, Task
from hybridge_edge.arrays import of_bytes
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import UsageError
from hybridge_edge.contract.tensors import TensorSpec

from .digits import NAMES, SIDE, Digits, load

QUALITY = 90  # as the camera source encodes


class Features(nn.Module):
    """(rows, 1, 28, 28) -> (rows, 5, 14, 14): ink, and its edges in four directions, nothing learnt."""

    edges: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
        tilted = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]]) / 4
        self.register_buffer("edges", torch.stack([across, across.T, tilted, tilted.flip(1)])[:, None])

    def forward(self, picture: Tensor) -> Tensor:
        edges = nn.functional.conv2d(picture, self.edges, padding=1).abs()
        return nn.functional.avg_pool2d(torch.cat([picture, edges], 1), 2)


class DigitTask(Task):
    """Ten digits, one picture each; parts by place in the source, so that no picture is in two."""

    inputs: ClassVar = (TensorSpec("picture", "BYTES", (-1, 1), "a JPEG, light ink on dark"),)
    codecs: ClassVar = (
        Codec(
            "picture",
            "jpeg",
            TensorSpec("picture", "FP32", (-1, 1, SIDE, SIDE), "0 is black, 1 is white"),
            colour="GREY",
            layout="CHW",
            fit="exact",
            scale=1 / 255,
            max_bytes=64 * 1024,
        ),
    )
    labels: ClassVar = NAMES

    def features(self) -> nn.Module:
        return Features()

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(5, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 3 * 3, len(NAMES)),
        )  # fmt: skip

    def dataset(self, split: int) -> Dataset:
        if split != 0:
            raise UsageError(f"Split {split} does not exist.", "There is split 0 alone.")
        parts = {name: samples(digits) for name, digits in load().items()}
        return Dataset(train=parts["train"], valid=parts["valid"], frozen=parts["frozen"])

    def metrics(self, outputs: Arrays, labels: NDArray[np.int64]) -> dict[str, float]:
        return {"accuracy": float((outputs["probabilities"].argmax(1) == labels).mean())}


def samples(digits: Digits) -> Samples:
    """Each picture as the JPEG that a camera source would send."""
    names = np.array([f"digits/{number}" for number in digits.numbers])
    return Samples(names, {"picture": of_bytes([jpeg(pixels) for pixels in digits.pixels])}, digits.labels, names)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """(height, width) grey pixels as a JPEG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()
