"""What a user writes: a task. Everything else of training and compiling is ours.

Shapes: every tensor has its rows first. ``Arrays`` maps a tensor's name to its array, in the order of the signature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.tensors import TensorSpec

Arrays: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw inputs with their labels.

    Attributes:
        ids: (rows,) text; joins labels to samples that come back from devices.
        inputs: raw tensors by name, each (rows, ...). labels: (rows,) int64.
        groups: (rows,) text; rows of one group hang together, such as windows of one recording.
    """

    ids: NDArray[np.str_]
    inputs: Arrays
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.labels), len(self.groups), *(len(array) for array in self.inputs.values())}
        if len(sizes) != 1 or sizes == {0} or not self.inputs:
            raise InvalidInput(f"The task's samples have parts of {sorted(sizes)} rows.", "Return equally many, not 0.")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """The samples at ``rows``, in that order."""
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return Samples(self.ids[rows], inputs, self.labels[rows], self.groups[rows])


@dataclass(frozen=True, slots=True)
class Dataset:
    """One split of a task's data.

    Attributes:
        train: what the first training sees. valid: measures it while training and checks its export.
        frozen: never trained on and never returned by a device: champion and challenger are compared on it.
        replay: played to devices as if it came from the field; None where a project has none.
    """

    train: Samples
    valid: Samples
    frozen: Samples
    replay: Samples | None = None


class Task(ABC):
    """A machine-learning problem. Subclass it, and name the class in project.toml.

    Attributes:
        inputs: the signature of a raw input; ``features()`` takes the tensors in this order.
        codecs: how inputs of BYTES [-1, 1] are decoded before ``features()``, which gets what they decode to; without
            golden encodings, which compiling adds. ``dataset()`` gives such inputs encoded, see ``arrays.of_bytes``.
        labels: names of the classes, in the order of the last axis of the first output; () where there are none.
        feature_names, output_names: of the tensors that ``features()`` and ``answer()`` give, in their order.
        confidence_output: the output whose largest value a row is the confidence; "" where there is none.
    """

    inputs: ClassVar[tuple[TensorSpec, ...]]
    codecs: ClassVar[tuple[Codec, ...]] = ()
    labels: ClassVar[tuple[str, ...]] = ()
    feature_names: ClassVar[tuple[str, ...]] = ("features",)
    output_names: ClassVar[tuple[str, ...]] = ("probabilities",)
    confidence_output: ClassVar[str] = "probabilities"

    @abstractmethod
    def features(self) -> nn.Module:
        """Raw tensors -> features, float32. Holds nothing learnt: the same graph serves every model of a generation."""

    @abstractmethod
    def model(self) -> nn.Module:
        """Features -> logits, untrained. Called with a seeded generator."""

    @abstractmethod
    def dataset(self, split: int) -> Dataset:
        """One of the project's fixed splits. Raises UsageError for a split that does not exist."""

    @abstractmethod
    def metrics(self, outputs: Arrays, labels: NDArray[np.int64]) -> dict[str, float]:
        """Numbers by name for a model's outputs; greater is better."""

    def answer(self) -> nn.Module:
        """Logits -> outputs: the post-processing that the exported graph ends with."""
        return nn.Softmax(dim=1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What training minimises: logits (rows, classes) and labels (rows,) int64 -> a number."""
        return nn.functional.cross_entropy(logits, labels)

    def correct(self, outputs: Arrays, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are right, (rows,): what comparisons of two models count."""
        right: NDArray[np.bool_] = outputs[self.output_names[0]].argmax(1) == labels
        return right
