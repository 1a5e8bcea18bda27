"""A runtime of MLServer with ONNX Runtime inside; its ``mlserver start`` loads it by name."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from peers.servers.session import INPUT, OUTPUT, open_session


class SessionRuntime(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self._session = open_session(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (scores,) = self._session.run([OUTPUT], {INPUT: NumpyCodec.decode_input(payload.inputs[0])})
        return InferenceResponse(
            id=payload.id, model_name=self.name, outputs=[NumpyCodec.encode_output(OUTPUT, scores)]
        )
