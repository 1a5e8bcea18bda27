"""Every datatype of the protocol, raw and typed, through a real server that answers what it is asked."""

import json
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hybridge_edge.admission.golden import check_golden
from hybridge_edge.arrays import NUMPY_TYPES
from hybridge_edge.cli import main
from hybridge_edge.client import Client
from hybridge_edge.contract.errors import InvalidDocument, InvalidInput, PackageRefused
from hybridge_edge.contract.expectations import Guard
from hybridge_edge.contract.tensors import TensorSpec
from hybridge_edge.contract.trust_document import TrustDocument
from hybridge_edge.engine import load
from hybridge_edge.serving.contents import MAX_TEXT_BYTES, MAX_TEXTS, TYPED
from hybridge_edge.trust import open_package

DATATYPES = list(NUMPY_TYPES)


def stub(server: Any) -> service_pb2_grpc.GRPCInferenceServiceStub:
    return service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(server.endpoint.inference))


def bytes_request(raw: bytes, shape: list[int]) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name="echo-bytes", raw_input_contents=[raw])
    request.inputs.add(name="x", datatype="BYTES", shape=shape)
    return request


@pytest.mark.parametrize("transport", ["inference", "tcp"])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_tritonclient_gets_back_what_it_sent_raw(echoes: Any, kit: ModuleType, datatype: str, transport: str) -> None:
    values = kit.echo_values(datatype, rows=3)
    tensor = triton.InferInput("x", values.shape, datatype)
    tensor.set_data_from_numpy(values)
    with triton.InferenceServerClient(getattr(echoes.endpoint, transport)) as client:
        result = client.infer(kit.echo_name(datatype), [tensor])
    assert result.get_output("y").datatype == datatype
    found = result.as_numpy("y")
    assert found.dtype == values.dtype
    numpy.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("datatype", [datatype for datatype in DATATYPES if datatype in TYPED])
def test_typed_contents_come_back_typed(echoes: Any, kit: ModuleType, datatype: str) -> None:
    values = kit.echo_values(datatype)
    request = service_pb2.ModelInferRequest(model_name=kit.echo_name(datatype))
    tensor = request.inputs.add(name="x", datatype=datatype, shape=values.shape)
    getattr(tensor.contents, TYPED[datatype]).extend(values.ravel().tolist())
    response = stub(echoes).ModelInfer(request, timeout=10)
    assert not response.raw_output_contents
    found = list(getattr(response.outputs[0].contents, TYPED[datatype]))
    numpy.testing.assert_array_equal(numpy.array(found, values.dtype).reshape(values.shape), values)


def test_fp16_has_no_typed_form(echoes: Any) -> None:
    assert set(DATATYPES) - set(TYPED) == {"FP16"}
    request = service_pb2.ModelInferRequest(model_name="echo-fp16")
    request.inputs.add(name="x", datatype="FP16", shape=[1, 3]).contents.fp32_contents.extend([1.0] * 3)
    with pytest.raises(grpc.RpcError, match="sends raw only"):
        stub(echoes).ModelInfer(request, timeout=10)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_our_client_speaks_every_datatype(echoes: Any, kit: ModuleType, datatype: str) -> None:
    values = kit.echo_values(datatype)
    with Client(echoes.endpoint.inference) as client:
        numpy.testing.assert_array_equal(client.infer(kit.echo_name(datatype), {"x": values}).outputs["y"], values)


def test_our_client_sends_text_as_bytes(echoes: Any) -> None:
    with Client(echoes.endpoint.inference) as client:
        for array in (numpy.array([["a", "sch\u00f6n", ""]]), numpy.array([[b"a", "sch\u00f6n".encode(), b""]], "S")):
            answer = client.infer("echo-bytes", {"x": array})
            assert answer.outputs["y"].tolist() == [[b"a", "sch\u00f6n".encode(), b""]]
        with pytest.raises(InvalidInput, match="holds a int"):
            client.infer("echo-bytes", {"x": numpy.array([[1, b"", b""]], object)})


LENGTHS = {
    "an element longer than what came": (b"\x05\0\0\0abc", [1, 3], "element of 5 bytes of which 3 came"),
    "a length of 4 GiB": (b"\xff\xff\xff\xff", [1, 3], "4294967295 bytes. Send at most"),
    "half a length": (b"\0\0\0\0\0\0", [1, 3], "needs 3 elements; its raw contents hold 1"),
    "too few elements": (b"\0\0\0\0" * 2, [1, 3], "hold 2"),
    "too many elements": (b"\0\0\0\0" * 4, [1, 3], "hold more"),
    "an element too long": (
        (MAX_TEXT_BYTES + 1).to_bytes(4, "little") + b"x" * (MAX_TEXT_BYTES + 1),
        [1, 3],
        "Send at most 1048576 bytes each",
    ),
    "more elements than are taken": (b"\0\0\0\0" * (MAX_TEXTS + 1), [MAX_TEXTS + 1], f"at most {MAX_TEXTS}"),
    "no text": (b"\x01\0\0\0\xff" * 3, [1, 3], "not UTF-8"),
}


@pytest.mark.parametrize("case", LENGTHS)
def test_bytes_that_lie_about_their_lengths_are_refused(echoes: Any, case: str) -> None:
    raw, shape, sentence = LENGTHS[case]
    with pytest.raises(grpc.RpcError) as caught:
        stub(echoes).ModelInfer(bytes_request(raw, shape), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in caught.value.details()


def test_samples_of_bytes_are_not_kept_and_are_counted(echoes: Any, kit: ModuleType) -> None:
    """A sample's tensors are plain arrays; the others of the same server go on being kept."""

    def counters() -> dict[str, int]:
        return echoes.say(verb="status")["capture"]

    def settled() -> dict[str, int]:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            now = counters()
            if now["kept"] == now["captured"] + sum(
                value for name, value in now.items() if name.startswith("dropped_")
            ):
                return now
            time.sleep(0.05)
        pytest.fail("the capture did not come to rest")

    with Client(echoes.endpoint.inference) as client:
        client.infer("watch", {"window": kit.window()})
        before = settled()
        assert before["captured"] > 0
        client.infer("echo-bytes", {"x": kit.echo_values("BYTES", rows=1)})
        client.infer("echo-fp64", {"x": numpy.zeros((1, 3))})
        after = settled()
    assert after["dropped_invalid"] - before["dropped_invalid"] == 1
    assert after["captured"] - before["captured"] == 1


def test_callers_at_once_get_their_own_texts_and_numbers(echoes: Any) -> None:
    """Requests that wait are put together in one run: each caller still gets its own rows."""
    wrong: list[object] = []

    def ask(number: int) -> None:
        texts = numpy.array([[f"{number}-{place}".encode() for place in range(3)]] * (number % 3 + 1), object)
        numbers = numpy.full((number % 2 + 1, 3), number, numpy.int64)
        for _ in range(15):
            for model, sent in (("echo-bytes", texts), ("echo-int64", numbers)):
                found = client.infer(model, {"x": sent}).outputs["y"]
                if found.tolist() != sent.tolist():
                    wrong.append((number, found))

    with Client(echoes.endpoint.inference) as client:
        threads = [Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_command_asks_with_text_from_a_file_and_prints_text(
    echoes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYBRIDGE_RUNTIME_DIR", str(echoes.runtime))
    for array in (numpy.array([["a", "sch\u00f6n", ""]]), numpy.array([[b"a", "sch\u00f6n".encode(), b""]])):
        numpy.save(tmp_path / "x.npy", array)
        assert main(["infer", "--model", "echo-bytes", "--input", str(tmp_path / "x.npy")]) == 0
        assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [["a", "sch\u00f6n", ""]]}


def test_golden_texts_are_compared(tmp_path: Path, kit: ModuleType, trust: TrustDocument) -> None:
    good = open_package(kit.build_echo(tmp_path / "good", "BYTES").folder, trust)
    check_golden(good, load(good, 1))
    bad = open_package(kit.build_echo(tmp_path / "bad", "BYTES", wrong=True).folder, trust)
    with pytest.raises(PackageRefused, match="has other texts") as caught:
        check_golden(bad, load(bad, 1))
    assert caught.value.step == "golden"


def test_a_manifest_guards_no_texts_and_takes_no_confidence_from_them(tmp_path: Path, kit: ModuleType) -> None:
    manifest = kit.build_echo(tmp_path / "echo", "BYTES").manifest
    for change in ({"confidence_output": "y"}, {"guards": (Guard("y", 0.0, 1.0, "flag"),)}):
        with pytest.raises(InvalidDocument, match="BYTES"):
            replace(manifest, **change)
    with pytest.raises(InvalidDocument, match="'BF16' is not a supported datatype"):
        TensorSpec("x", "BF16", (-1, 3))
