"""atheris on the decoding of requests, on demand: it is no part of the tests' environment.

    python3.11 -m venv try/fuzz && try/fuzz/bin/pip install atheris -e 'edge[cpu]'
    try/fuzz/bin/python tests/fuzz/requests.py try/corpus -max_total_time=300 -max_len=4096

It holds ``decode`` to two promises: whatever comes, it is read or refused as InvalidInput; and what is read by a plan
is what is read whole (tests/edge/serving/test_fuzz.py has the same two for a seeded mutator). Anything else ends
the run with the input in a file of its own.
"""

import sys

import atheris

with atheris.instrument_imports(include=["hybridge_edge"]):
    from hybridge_edge.arrays import NUMPY_TYPES
    from hybridge_edge.contract.errors import InvalidInput
    from hybridge_edge.contract.protos import open_inference_pb2 as messages
    from hybridge_edge.serving import requests
    from hybridge_edge.serving.contents import TYPED


def seeds() -> list[bytes]:
    """Good requests: raw, and typed where there is a list, of every datatype."""
    found = []
    for datatype, dtype in NUMPY_TYPES.items():
        made = messages.ModelInferRequest(model_name="m", id="i")
        made.parameters["timeout"].int64_param = 1
        tensor = made.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        made.raw_input_contents.append(b"\0" * (8 if dtype.hasobject else 2 * dtype.itemsize))
        found.append(made.SerializeToString())
        if datatype in TYPED:
            del made.raw_input_contents[:]
            getattr(tensor.contents, TYPED[datatype]).extend([b"", b""] if dtype.hasobject else [0, 1])
            found.append(made.SerializeToString())
    return found


def outcome(decode: object, message: bytes) -> str:
    try:
        found = decode(message)
    except InvalidInput as error:
        text = str(error)
        assert not any(word in text for word in ("Traceback", ".py", "site-packages")), text
        return text
    arrays = {
        name: (array.dtype.str, array.shape, array.ravel().tolist()) for name, array in found.inference.inputs.items()
    }
    return repr((found._replace(inference=None), found.inference.model, found.inference.outputs, arrays))


def one(data: bytes) -> None:
    whole = outcome(lambda message: requests._whole(message)[0], data)
    for _ in range(2):
        assert outcome(requests.decode, data) == whole


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        from pathlib import Path

        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (Path(sys.argv[1]) / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
