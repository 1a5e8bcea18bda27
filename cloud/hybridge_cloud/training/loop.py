"""The training loop: one process, seeded, the same numbers on the same machine every time.

The order of rows is a function of (seed, epoch) alone, so that processes that share the work can each take their part
of the same order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hybridge_cloud.training.project_code import project_code
from hybridge_cloud.training.task import Arrays, Task
from hybridge_edge.contract.document import Reader
from hybridge_edge.contract.errors import InvalidDocument, InvalidInput, Refused

THREADS = 1
"""CPU threads of a training: sums depend on how many share them, and one is enough for tables of features."""
MIN_ROWS = 2
ANSWER_ROWS = 512
MAX_SEED = 2**31 - 1
"""What every generator here takes, multiplied by an epoch's place."""
_EPOCH_SEEDS = 1_000_003


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How to train. ``batch_size`` in rows; ``learning_rate`` is the peak of a one-cycle schedule."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int = 0

    @classmethod
    def read(cls, reader: Reader) -> TrainConfig:
        config = cls(
            epochs=reader.integer("epochs", minimum=1, maximum=100_000),
            batch_size=reader.integer("batch_size", minimum=MIN_ROWS, maximum=1 << 20),
            learning_rate=reader.number("learning_rate"),
            weight_decay=reader.number("weight_decay"),
            seed=reader.integer("seed", 0, maximum=MAX_SEED),
        )
        if config.learning_rate <= 0 or config.weight_decay < 0:
            raise InvalidDocument(
                f"The learning_rate {config.learning_rate} is not above 0, or the weight_decay {config.weight_decay} "
                "is below 0.",
                "Correct [train] in project.toml.",
            )
        return config

    def to_json(self) -> dict[str, object]:
        return {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the rows: its number from 1, of how many, the mean loss, seconds since the start."""

    number: int
    of: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model in evaluation mode, and the task's metrics on the validation rows."""

    module: nn.Module
    metrics: dict[str, float]
    epochs: tuple[Epoch, ...]


def train_model(
    task: Task,
    train_features: Arrays,
    train_labels: NDArray[np.int64],
    valid_features: Arrays,
    valid_labels: NDArray[np.int64],
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Trained:
    """Train ``task.model()`` on features; ``features()`` stays as it is.

    Args:
        train_features, valid_features: by name, each (rows, ...) float32. labels: (rows,) int64.
        on_epoch: told of every pass, for progress.

    Raises:
        InvalidInput: rows are missing, unequal, not finite, or labelled with classes the task does not have.
        Refused: the loss is no number any more.
    """
    _check(task, train_features, train_labels)
    _check(task, valid_features, valid_labels)
    with reproducible(config.seed):
        module = task.model()
        history = tuple(_epochs(task, module, train_features, train_labels, config, on_epoch))
        module.eval()
        outputs = answer(task, module, valid_features)
    return Trained(module, task.metrics(outputs, valid_labels), history)


def answer(task: Task, module: nn.Module, features: Arrays) -> Arrays:
    """The outputs that a trained model gives for features, post-processing included, by name."""
    graph = Answering(module, task.answer())
    return run_module(graph, task.output_names, [features[name] for name in task.feature_names])


class Answering(nn.Module):
    """A model and its post-processing as one module."""

    def __init__(self, model: nn.Module, post: nn.Module) -> None:
        super().__init__()
        self.model, self.post = model, post

    def forward(self, *features: Tensor) -> object:
        return self.post(self.model(*features))


def run_module(module: nn.Module, names: tuple[str, ...], inputs: list[NDArray[np.float32]]) -> Arrays:
    """Run a module in evaluation mode over rows, ANSWER_ROWS at a time. Returns arrays by ``names``."""
    module.eval()
    parts: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for start in range(0, len(inputs[0]), ANSWER_ROWS):
            rows = [torch.from_numpy(array[start : start + ANSWER_ROWS].copy()) for array in inputs]
            with project_code("Running a module of the task", ours_too=True):
                given = module(*rows)
            parts.append(given if isinstance(given, tuple) else (given,))
    if len(parts[0]) != len(names):
        raise Refused(f"A module gives {len(parts[0])} tensors, and the task names {len(names)}: {', '.join(names)}.")
    return {name: torch.cat([part[i] for part in parts]).numpy() for i, name in enumerate(names)}


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seeded, deterministic operations on a fixed number of threads; what was set before comes back afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)


def _epochs(
    task: Task,
    module: nn.Module,
    features: Arrays,
    labels: NDArray[np.int64],
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None] | None,
) -> Iterator[Epoch]:
    inputs = [torch.from_numpy(np.ascontiguousarray(features[name])) for name in task.feature_names]
    wanted = torch.from_numpy(np.ascontiguousarray(labels))
    optimizer = torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * len(_batches(len(labels), config, 0))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=max(steps, 2))
    started = time.monotonic()
    for number in range(1, config.epochs + 1):
        module.train()
        losses = []
        for rows in _batches(len(labels), config, number):
            optimizer.zero_grad()
            with project_code("A training step", ours_too=True):
                loss = task.loss(module(*[tensor[rows] for tensor in inputs]), wanted[rows])
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        epoch = Epoch(number, config.epochs, float(np.mean(losses)), time.monotonic() - started)
        if not np.isfinite(epoch.loss):
            raise Refused(f"The loss is {epoch.loss} in epoch {number}.", "Lower learning_rate in project.toml.")
        if on_epoch is not None:
            on_epoch(epoch)
        yield epoch


def _batches(rows: int, config: TrainConfig, epoch: int) -> list[Tensor]:
    """Full batches in an order of (seed, epoch), the rest left for another epoch; one smaller batch if that is all."""
    generator = torch.Generator().manual_seed(config.seed * _EPOCH_SEEDS + epoch)
    order = torch.randperm(rows, generator=generator)
    size = min(config.batch_size, rows)
    return [order[start : start + size] for start in range(0, rows - size + 1, size)]


def _check(task: Task, features: Arrays, labels: NDArray[np.int64]) -> None:
    if set(features) != set(task.feature_names):
        raise InvalidInput(f"The features are {', '.join(features)}; the task has {', '.join(task.feature_names)}.")
    if len(labels) < MIN_ROWS or any(len(array) != len(labels) for array in features.values()):
        raise InvalidInput(f"{len(labels)} labels do not fit the features' rows, or are fewer than {MIN_ROWS}.")
    if not all(np.isfinite(array).all() for array in features.values()):
        raise InvalidInput("Some features are not finite.", "Correct features(), or drop the samples.")
    if task.labels and not (labels.min() >= 0 and labels.max() < len(task.labels)):
        raise InvalidInput(f"A label is outside 0..{len(task.labels) - 1}.", "Correct dataset(), or drop the samples.")
