"""An ONNX graph, run by ONNX Runtime on the CPU: the same operators that answer on a device."""

from __future__ import annotations

import numpy as np

from hybridge_cloud.training.task import Arrays
from hybridge_edge.contract.errors import InvalidInput, Refused

RUN_ROWS = 32


class Graph:
    """One graph. ``inputs`` and ``outputs`` are its tensors' names, in order."""

    def __init__(self, onnx_bytes: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions have no common root but this
            raise Refused(f"ONNX Runtime {onnxruntime.__version__} cannot load the graph: {error}.") from None
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def run(self, arrays: Arrays, rows_at_once: int = RUN_ROWS) -> Arrays:
        """All rows of ``arrays``, ``rows_at_once`` together. Raises InvalidInput where names or shapes do not fit."""
        if set(arrays) != set(self.inputs):
            raise InvalidInput(f"The graph takes {', '.join(self.inputs)}, not {', '.join(arrays)}.")
        rows = len(arrays[self.inputs[0]])
        parts = []
        for start in range(0, rows, rows_at_once):
            piece = {name: np.ascontiguousarray(array[start : start + rows_at_once]) for name, array in arrays.items()}
            try:
                parts.append(self._session.run(None, piece))
            except Exception as error:
                raise InvalidInput(f"The graph does not take these tensors: {error}.") from None
        return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(self.outputs)}
