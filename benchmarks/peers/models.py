"""The models that every contender serves: graphs of random weights, their inputs, the answers they must give.

Weights are drawn from one seed, so the graphs have the same bytes on every machine. What is measured is the way to a
model and back, for which the weights do not matter; the shapes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from peers.servers.session import open_session

INPUT, OUTPUT = "input", "scores"
OPSET, IR_VERSION = 17, 10
Floats = NDArray[numpy.float32]


class _Graph:
    """Nodes and weights as they are added; ``last`` is the name of the newest result."""

    def __init__(self, given: str) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last = given
        self._random = numpy.random.default_rng(2018)

    def add(self, kind: str, *others: str, **attributes: Any) -> str:
        """An operator over ``last`` and ``others``."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *others], [name], **attributes))
        self.last = name
        return name

    def weight(self, *shape: int) -> str:
        """Drawn so that a layer keeps the size of what comes in (He et al. 2015): no overflow, no denormals."""
        fan_in = int(numpy.prod(shape[1:])) or 1
        array = self._random.normal(0.0, (2.0 / fan_in) ** 0.5, shape).astype(numpy.float32)
        return self.constant(array)

    def constant(self, array: Floats) -> str:
        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def dense(self, ins: int, outs: int) -> str:
        return self.add("Gemm", self.weight(outs, ins), self.weight(outs), transB=1)

    def convolution(self, ins: int, outs: int, kernel: tuple[int, ...], stride: int, groups: int = 1) -> str:
        """With a bias: batch normalisation is folded into it, as every exporter for inference does."""
        pads = [size // 2 for size in kernel] * 2
        weight, bias = self.weight(outs, ins // groups, *kernel), self.weight(outs)
        strides = [stride] * len(kernel)
        return self.add("Conv", weight, bias, kernel_shape=list(kernel), strides=strides, pads=pads, group=groups)

    def clip(self) -> str:
        """ReLU6."""
        return self.add("Clip", self.constant(numpy.float32(0)), self.constant(numpy.float32(6)))  # type: ignore[arg-type]


def _tiny(graph: _Graph) -> None:
    graph.dense(64, 128)
    graph.add("Relu")
    graph.dense(128, 128)
    graph.add("Relu")
    graph.dense(128, 10)


def _sensor(graph: _Graph) -> None:
    for ins, outs, kernel in ((6, 32, 7), (32, 64, 5), (64, 128, 5)):
        graph.convolution(ins, outs, (kernel,), 2)
        graph.add("Relu")
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.dense(128, 10)


_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, repetitions, first stride: table 2 of Sandler et al. 2018, arXiv:1801.04381."""


def _mobilenet(graph: _Graph) -> None:
    graph.convolution(3, 32, (3, 3), 2)
    graph.clip()
    channels = 32
    for expansion, outs, repetitions, first_stride in _BLOCKS:
        for repetition in range(repetitions):
            stride = first_stride if repetition == 0 else 1
            before, wide = graph.last, channels * expansion
            if expansion != 1:
                graph.convolution(channels, wide, (1, 1), 1)
                graph.clip()
            graph.convolution(wide, wide, (3, 3), stride, groups=wide)
            graph.clip()
            graph.convolution(wide, outs, (1, 1), 1)
            if stride == 1 and channels == outs:
                graph.add("Add", before)
            channels = outs
    graph.convolution(320, 1280, (1, 1), 1)
    graph.clip()
    graph.add("GlobalAveragePool")
    graph.add("Flatten")
    graph.dense(1280, 1000)


@dataclass(frozen=True, slots=True)
class Model:
    """One model: ``shape`` of one row of its input, ``classes`` of its output, both FP32; ``draw`` makes its graph."""

    name: str
    shape: tuple[int, ...]
    classes: int
    what: str
    draw: Callable[[_Graph], None]

    def graph(self, given: str = INPUT) -> bytes:
        """The ONNX graph, its input named ``given``, its output OUTPUT, any number of rows."""
        drawn = _Graph(given)
        self.draw(drawn)
        drawn.nodes[-1].output[0] = OUTPUT
        return _serialized(
            drawn.nodes, _value(given, self.shape), _value(OUTPUT, (self.classes,)), drawn.weights, self.name
        )

    def identity(self, given: str, gives: str) -> bytes:
        """A graph that hands its input on: the first of the two graphs of a package of ours."""
        node = helper.make_node("Identity", [given], [gives])
        return _serialized([node], _value(given, self.shape), _value(gives, self.shape), [], "identity")

    def rows(self, count: int = 1) -> Floats:
        """Inputs, the same ones at every call."""
        drawn = numpy.random.default_rng(1801).normal(size=(count, *self.shape))
        return drawn.astype(numpy.float32)


MODELS = {
    model.name: model
    for model in (
        Model("tiny", (64,), 10, "MLP 64-128-128-10", _tiny),
        Model("sensor", (6, 1024), 10, "1D CNN on 6 channels of 1,024 steps", _sensor),
        Model("mobilenetv2", (3, 224, 224), 1000, "MobileNetV2, width 1.0, 224x224", _mobilenet),
    )
}


def _means(graph: _Graph) -> None:
    graph.add("GlobalAveragePool")
    graph.add("Flatten")


MEANS = Model("means", (3, 224, 224), 3, "the mean of each of three planes of 224x224: 602 kB in, 12 bytes out", _means)
"""For what a large request costs, with next to nothing to compute."""


def _row_means(graph: _Graph) -> None:
    graph.add("ReduceMean", axes=[1], keepdims=1)


ROWS = Model("rows", (1024,), 1, "the mean of each row of 4,096 bytes: requests of any size, by their rows", _row_means)
"""For where one way of sending becomes cheaper than another."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A model's graph in a file, and what it answers to ``model.rows()``."""

    model: Model
    path: Path
    answer: Floats


def export(model: Model, folder: Path) -> Exported:
    """Write the graph as FOLDER/NAME.onnx and run it once."""
    path = folder / f"{model.name}.onnx"
    path.write_bytes(model.graph())
    (answer,) = open_session(str(path)).run([OUTPUT], {INPUT: model.rows()})
    return Exported(model, path, answer)


def _value(name: str, shape: tuple[int, ...]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _serialized(nodes: list[Any], given: Any, gives: Any, weights: list[Any], name: str) -> bytes:
    graph = helper.make_graph(nodes, name, [given], [gives], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    content: bytes = made.SerializeToString()
    return content
