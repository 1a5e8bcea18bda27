"""Run by test_kserve.py with the Python of an environment that has KServe: TARGET and questions in, a JSON line out.

A question is [model, input, datatype, shape, values]; each is asked raw and, where KServe can, typed.
"""

import asyncio
import json
import sys

import numpy
from kserve import InferenceGRPCClient, InferInput, InferRequest

NUMPY_NAMES = {"BOOL": "bool", "FP16": "f2", "FP32": "f4", "FP64": "f8"}


def array_of(datatype: str, shape: list[int], values: list) -> numpy.ndarray:
    if datatype == "BYTES":
        return numpy.array([value.encode() for value in values], object).reshape(shape)
    return numpy.array(values).astype(NUMPY_NAMES.get(datatype, datatype.lower())).reshape(shape)


async def main(target: str, questions: list[list]) -> dict[str, object]:
    said: dict[str, object] = {}
    async with InferenceGRPCClient(target, timeout=20) as client:
        said["health"] = [
            await client.is_server_live(),
            await client.is_server_ready(),
            await client.is_model_ready("watch"),
        ]
        for model, name, datatype, shape, values in questions:
            for raw in (True, False):
                if datatype == "FP16" and not raw:
                    continue
                tensor = InferInput(name, shape, datatype)
                tensor.set_data_from_numpy(array_of(datatype, shape, values), binary_data=raw)
                request = InferRequest(model_name=model, infer_inputs=[tensor], request_id="kserve-1")
                answer = await client.infer(request)
                found = answer.outputs[0].as_numpy()
                elements = [one.decode() if isinstance(one, bytes) else one for one in found.ravel().tolist()]
                said[f"{model} {raw}"] = [answer.model_version, answer.id, list(found.shape), elements]
        try:
            await client.infer(InferRequest(model_name="none", infer_inputs=[tensor]))
        except Exception as error:
            said["error"] = str(error)
    return said


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))))
