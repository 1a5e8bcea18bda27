"""A model of Triton's Python backend with ONNX Runtime inside; Triton finds it as NAME/1/model.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as backend

from peers.servers.session import INPUT, OUTPUT, open_session


class TritonPythonModel:
    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._session = open_session(parameters["graph"]["string_value"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = backend.get_input_tensor_by_name(request, INPUT).as_numpy()
        (scores,) = self._session.run([OUTPUT], {INPUT: given})
        return backend.InferenceResponse(output_tensors=[backend.Tensor(OUTPUT, scores)])
