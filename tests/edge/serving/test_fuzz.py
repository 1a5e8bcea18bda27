"""S11 and S12 over what a seeded mutator makes of good requests.

Through decoding, signature, engine and answer they get an answer or words, never an accident, and the words say nothing
of the device. HYBRIDGE_FUZZ_EXAMPLES and HYBRIDGE_FUZZ_SEED make it run longer, or again; tests/fuzz has the same for
atheris.
"""

from __future__ import annotations

import os
import platform
import random
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridge_edge import trust as trusting
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.client import wording
from hybridge_edge.contract.errors import InvalidInput
from hybridge_edge.contract.protos import open_inference_pb2 as messages
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.serving import requests, statuses, wire_format
from hybridge_edge.serving.arrivals import Arrivals
from hybridge_edge.serving.call import LOCAL, Call
from hybridge_edge.serving.contents import TYPED
from hybridge_edge.serving.gate import Gate
from hybridge_edge.serving.protocol import Protocol
from hybridge_edge.serving.residents import Resident
from hybridge_edge.serving.service import Service
from hybridge_edge.serving.statuses import Status

EXAMPLES = int(os.environ.get("HYBRIDGE_FUZZ_EXAMPLES", "20000"))
SEED = int(os.environ.get("HYBRIDGE_FUZZ_SEED", "20261125"))
ROOT = str(Path(__file__).resolve().parents[3])
ALLOWED = {Status.INVALID_ARGUMENT, Status.NOT_FOUND}


def raw_request(model: str, array: numpy.ndarray, name: str = "x", **fields: object) -> messages.ModelInferRequest:
    sent = wording.request(model, "", "", {name: array}, (), capture=True, timeout_us=0)
    made = messages.ModelInferRequest.FromString(sent)
    made.MergeFrom(messages.ModelInferRequest(**fields))
    return made


def typed_request(model: str, datatype: str, array: numpy.ndarray, name: str = "x") -> messages.ModelInferRequest:
    made = messages.ModelInferRequest(model_name=model)
    tensor = made.inputs.add(name=name, datatype=datatype, shape=array.shape)
    getattr(tensor.contents, TYPED[datatype]).extend(array.ravel().tolist())
    return made


@pytest.fixture(scope="module")
def protocol(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    """The whole way of a request but for gRPC: two models, real engines."""
    folder = tmp_path_factory.mktemp("fuzz")
    service = Service(Gate(1), lambda model, digest: None)
    trust: TrustDocument = kit.trust_of(kit.signer())
    counter = kit.build_counter(folder / "counter")
    for built in (kit.build(folder / "watch"), counter, *(kit.build_echo(folder / kind, kind) for kind in NUMPY_TYPES)):
        engine = load(trusting.open_package(built.folder, trust), 1)
        service.residents.switch(Resident(built.manifest, built.digest, engine))
    return Protocol(service, "0.1.0", lambda: True, None, LOCAL, 1, Arrivals())


def corpus(kit: ModuleType) -> list[messages.ModelInferRequest]:
    """Good requests of every kind, to spoil."""
    found = [raw_request("watch", kit.window(2), "window", id="an-id")]
    for datatype in NUMPY_TYPES:
        values = kit.echo_values(datatype)
        found.append(raw_request(kit.echo_name(datatype), values))
        if datatype in TYPED:
            found.append(typed_request(kit.echo_name(datatype), datatype, values))
    full = raw_request("watch", kit.window(), "window", model_version="1.0.0", outputs=[{"name": "scores"}])
    full.parameters["timeout"].int64_param = 5_000_000
    full.parameters["hybridge_capture"].bool_param = False
    full.parameters["sequence_id"].uint64_param = 0
    full.inputs[0].parameters["binary_data_size"].int64_param = 96
    return [*found, full]


NUMBERS = (0, 1, 2, 3, 4, 8, 127, 255, 2**16, 2**28, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -1, -2, -(2**63))
WORDS = ("", "x", "window", "scores", "FP32", "BYTES", "BF16", "INT8", "\0", "é" * 50, "n" * 3000, "%s{0}", "1.0.0")


def spoil_fields(made: messages.ModelInferRequest, rng: random.Random) -> None:
    """Change some of what a request says, so that it is still a message."""
    for _ in range(rng.randint(1, 3)):
        tensor = rng.choice(made.inputs) if made.inputs else made.inputs.add()
        kind = rng.randrange(12)
        if kind == 0:
            tensor.shape[:] = [rng.choice(NUMBERS) for _ in range(rng.randint(0, 10))]
        elif kind == 1 and tensor.shape:
            tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(NUMBERS)
        elif kind == 2:
            tensor.datatype = rng.choice((*NUMPY_TYPES, *WORDS))
        elif kind == 3:
            tensor.name = rng.choice(WORDS)
        elif kind == 4:
            made.raw_input_contents.append(rng.randbytes(rng.randint(0, 40)))
        elif kind == 5 and made.raw_input_contents:
            place = rng.randrange(len(made.raw_input_contents))
            raw = bytearray(made.raw_input_contents[place])
            spoil_bytes(raw, rng)
            made.raw_input_contents[place] = bytes(raw)
        elif kind == 6:
            field = rng.choice(sorted(set(TYPED.values())))
            values = {"bool_contents": [True], "bytes_contents": [rng.randbytes(5)]}.get(field, [rng.randint(0, 300)])
            getattr(tensor.contents, field).extend(values * rng.randint(1, 5))
        elif kind == 7:
            made.outputs.add(name=rng.choice(WORDS))
        elif kind == 8:
            name = rng.choice((*WORDS, "timeout", "priority", "sequence_id", "hybridge_capture"))
            parameter = made.parameters[name]
            choice = rng.randrange(6)
            if choice == 0:
                parameter.int64_param = rng.choice(NUMBERS)
            elif choice == 1:
                parameter.string_param = rng.choice(WORDS)
            elif choice == 2:
                parameter.double_param = rng.choice((float("nan"), 1e308, -1.0))
            elif choice == 3:
                parameter.bool_param = bool(rng.getrandbits(1))
            elif choice == 4:
                parameter.uint64_param = 2**64 - 1
        elif kind == 9:
            made.model_name = rng.choice((*WORDS, "watch", "echo-bytes"))
        elif kind == 10:
            made.model_version = rng.choice(WORDS)
        else:
            made.id = rng.choice(WORDS)


def spoil_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place:place] = rng.randbytes(rng.randint(1, 6))
        elif kind == 2:
            del data[place : place + rng.randint(1, 8)]
        elif kind == 3:
            part = data[place : place + rng.randint(1, 60)]
            data[rng.randrange(len(data) + 1) : 0] = part
        else:
            data[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 2**16)))


def spoiled(found: list[messages.ModelInferRequest], rng: random.Random) -> bytes:
    made = messages.ModelInferRequest()
    made.CopyFrom(rng.choice(found))
    style = rng.randrange(4)
    if style != 0:
        spoil_fields(made, rng)
    data = bytearray(made.SerializeToString())
    if style in (0, 3):
        spoil_bytes(data, rng)
    return bytes(data)


def outcome(protocol: Protocol, message: bytes) -> tuple[Status, str]:
    """What a caller is told, by the server's own code."""
    try:
        parts = protocol._answering.answer(message, lambda own_s: Call(5.0))
    except Exception as error:
        return statuses.status(error)
    messages.ModelInferResponse.FromString(b"".join(parts))
    return Status.OK, ""


def leaks(text: str, sent: bytes) -> list[str]:
    """What a text says of the device that its caller did not say first."""
    secrets = ("Traceback", 'File "', ".py", "site-packages", ROOT, "/tmp", "hybridge_edge", platform.node())
    found = [secret for secret in secrets if secret in text and secret.encode() not in sent]
    return [*found, "/"] if "/" in text and b"/" not in sent else found


def test_s12_the_search_finds_what_it_is_for() -> None:
    """The positive control."""
    for text in (f"{ROOT}/x", "Traceback (most recent call last)", f"at {platform.node()}", "a/b", "engine.py"):
        assert leaks(text, b"nothing")
    assert not leaks("Input 'a/b' is unknown.", b"a/b")


def test_s11_s12_spoiled_requests_get_answers_or_words_and_no_word_of_the_device(
    protocol: Protocol, kit: ModuleType
) -> None:
    rng, found = random.Random(SEED), corpus(kit)
    for good in found:
        assert outcome(protocol, good.SerializeToString()) == (Status.OK, "")
    codes: dict[Status, int] = {}
    sentences = set()
    for number in range(EXAMPLES):
        message = spoiled(found, rng)
        code, text = outcome(protocol, message)
        codes[code] = codes.get(code, 0) + 1
        sentences.add(text[:12])
        where = f"example {number} of seed {SEED}: {message.hex()}: {text}"
        assert code in ALLOWED or code is Status.OK, where
        assert not leaks(text, message), where
        assert len(text) <= statuses.MAX_TEXT, where
    # The mutator reaches deep: good requests, unknown models, and many different mistakes are among them.
    assert min(codes[code] for code in (*ALLOWED, Status.OK)) > EXAMPLES // 100, codes
    assert len(sentences) > 15, sentences


def sequences_of(kit: ModuleType) -> list[messages.ModelInferRequest]:
    """Good requests of sequences: one that begins, goes on and ends, by number and by name; and of none."""
    found = [raw_request(kit.COUNTER, kit.steps_of()[:1])]
    for field, name in (("uint64_param", 7), ("int64_param", 8), ("string_param", "nine")):
        for start, end in ((True, False), (False, False), (False, True)):
            made = raw_request(kit.COUNTER, kit.steps_of()[:1])
            setattr(made.parameters["sequence_id"], field, name)
            made.parameters["sequence_start"].bool_param = start
            made.parameters["sequence_end"].bool_param = end
            found.append(made)
    return found


def test_spoiled_requests_of_sequences_get_answers_or_words_too(protocol: Protocol, kit: ModuleType) -> None:
    rng, found = random.Random(SEED + 2), sequences_of(kit)
    allowed = {
        *ALLOWED,
        Status.OK,
        Status.ABORTED,
        Status.RESOURCE_EXHAUSTED,  # the mutator begins more than there may be
        Status.FAILED_PRECONDITION,  # and sends what is no number
    }
    for good in found:
        assert outcome(protocol, good.SerializeToString()) == (Status.OK, "")
    codes: dict[Status, int] = {}
    for number in range(EXAMPLES // 4):
        message = spoiled(found, rng)
        code, text = outcome(protocol, message)
        codes[code] = codes.get(code, 0) + 1
        where = f"example {number} of seed {SEED + 2}: {message.hex()}: {text}"
        assert code in allowed, where
        assert not leaks(text, message), where
    reached = {Status.OK, Status.ABORTED, Status.INVALID_ARGUMENT}
    assert min(codes[code] for code in reached) > EXAMPLES // 400, codes
    counts = protocol._service.sequences.counts()
    assert counts.live <= protocol._service.sequences.count
    assert not any(protocol._service.sequences._waiting.values())


def test_an_accident_would_be_seen_by_the_same_search(protocol: Protocol, kit: ModuleType) -> None:
    """The positive control: an engine that fails is INTERNAL, which the run above does not allow."""
    message = raw_request("watch", kit.window(), "window").SerializeToString()
    resident = protocol._service.residents.find("watch", "")
    engine, resident.engine = resident.engine, None  # type: ignore[assignment]
    try:
        code, text = outcome(protocol, message)
    finally:
        resident.engine = engine
    assert code not in ALLOWED
    assert not leaks(text, message)


def decoded(decode: Callable[[bytes], requests.Request], message: bytes) -> tuple[object, ...]:
    try:
        found = decode(message)
    except InvalidInput as error:
        return (str(error),)
    one = found.inference
    arrays = tuple((name, a.dtype.str, a.shape, repr(a.ravel().tolist())) for name, a in one.inputs.items())
    return (
        found.id,
        found.raw,
        found.timeout_s,
        one.model,
        one.version,
        one.outputs,
        one.capture,
        one.sample_id,
        one.sequence,
        arrays,
    )


def test_a_request_that_follows_a_plan_is_read_as_one_that_is_read_whole(kit: ModuleType) -> None:
    rng, found = random.Random(SEED + 1), corpus(kit)
    planned = 0
    requests._plans.clear()
    for number in range(EXAMPLES // 8):
        message = spoiled(found, rng) if number % 2 else rng.choice(found).SerializeToString()
        parts = wire_format.take_apart(message, 3, 7)
        planned += parts is not None and parts[0] in requests._plans
        whole = decoded(lambda data: requests._whole(data)[0], message)
        for _ in range(2):  # the second time there is a plan, if there ever is
            assert decoded(requests.decode, message) == whole, f"example {number} of seed {SEED}: {message.hex()}"
        assert len(requests._plans) <= requests.MAX_PLANS
    assert planned > EXAMPLES // 40


FOUND = {
    "an id that is no text, of a tensor that is no BOOL": (
        "0a016d1a07070707780100 01220d0a0774696d656f7574120210012a0d0a01781204424f4f4c1a0201023a020001",
        "0a016d1a07070707f80100 01220d0a0774696d656f7574120210012a0d0a01781204424f4f4c1a0201023a020078",
    ),
    "an id that is no text, before one that is": (
        "2a0d0a01781204424f4f4c1a0200023a00",
        "1a02f8012a0d0a01781204424f4f4c1a0200021a016d3a00",
    ),
}
"""What atheris found (tests/fuzz): a request that leaves a plan, and one that may not follow it."""


@pytest.mark.parametrize("found", FOUND)
def test_what_fuzzing_found_stays_found(found: str) -> None:
    good, bad = (bytes.fromhex(text) for text in FOUND[found])
    requests._plans.clear()
    requests.decode(good)
    assert len(requests._plans) == 1
    assert decoded(requests.decode, bad) == ("The request's bytes are no ModelInferRequest.",)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_read_or_refused(data: bytes) -> None:
    assert decoded(requests.decode, data) == decoded(lambda message: requests._whole(message)[0], data)
