"""Features of raw inputs, by the project's torch module or by a package's features.onnx."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybridge_cloud.training.graph import Graph
from hybridge_cloud.training.loop import reproducible, run_module
from hybridge_cloud.training.task import Arrays, Task
from hybridge_edge.codecs.decoder import decode_inputs
from hybridge_edge.contract.codec import Codec
from hybridge_edge.contract.errors import Refused

SAME_RTOL = 1e-3
SAME_ATOL = 1e-4
COMPARED_ROWS = 64


def torch_features(task: Task, inputs: Arrays) -> Arrays:
    """Features by the task's own module: what a first training uses and what the export is compared with."""
    decoded = decode_inputs(task.codecs, inputs)
    with reproducible(0):
        return run_module(task.features(), task.feature_names, [decoded[spec.name] for spec in task.inputs])


def graph_features(features_onnx: bytes, inputs: Arrays, codecs: Sequence[Codec] = ()) -> Arrays:
    """Features by an exported graph: what retraining uses, so that old and returned rows come from one graph."""
    return Graph(features_onnx).run(decode_inputs(codecs, inputs))


def refuse_another_generation(task: Task, features_onnx: bytes, inputs: Arrays) -> None:
    """Raise Refused unless the project's ``features()`` still gives what ``features_onnx`` gives."""
    some = {name: array[:COMPARED_ROWS] for name, array in inputs.items()}
    ours, theirs = torch_features(task, some), graph_features(features_onnx, some, task.codecs)
    same = set(ours) == set(theirs) and all(
        ours[name].shape == theirs[name].shape and np.allclose(ours[name], theirs[name], SAME_RTOL, SAME_ATOL)
        for name in ours
    )
    if not same:
        raise Refused(
            "The project's features() differs from the package's features.onnx, so returned samples do not fit it.",
            "Put features() back, or start a new generation with `hybridge train`; returned samples stay behind.",
        )
