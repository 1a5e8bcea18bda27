"""A model's answers held to the bounds its package states: counted, said in the answer, or refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hybridge_edge.client import Client
from hybridge_edge.contract.errors import Refused
from hybridge_edge.contract.expectations import Guard
from hybridge_edge.serving.guards import object_to
from hybridge_edge.serving.server import InferenceServer

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("action", ["pass", "flag", "refuse"])
@pytest.mark.parametrize("bad", [NAN, INFINITY, -INFINITY, 1.01, -0.01])
def test_numbers_outside_the_bounds_and_what_is_no_number_break_a_guard(action: str, bad: float) -> None:
    guard = Guard("scores", 0.0, 1.0, action)
    good = numpy.array([[0.0, 0.5], [1.0, 0.2]], numpy.float32)
    assert object_to((guard,), {"scores": good}) is None
    broken = good.copy()
    broken[1, 0] = bad
    objection = object_to((guard,), {"scores": broken})
    assert objection is not None
    assert objection.action == action
    assert "Output 'scores' has 1 of 4 elements outside [0, 1]" in objection.sentence


def test_the_strictest_guard_speaks() -> None:
    array = numpy.array([2, 3])
    guards = (Guard("a", 0, 1, "flag"), Guard("a", 0, 2, "refuse"), Guard("a", 0, 1, "pass"))
    objection = object_to(guards, {"a": array})
    assert objection is not None
    assert (objection.action, "1 of 2" in objection.sentence) == ("refuse", True)
    assert object_to(guards, {"a": numpy.zeros((0, 2))}) is None


@pytest.fixture
def guarded(device: Any, packages: Callable, short: Path) -> Any:
    """A server whose model has a guard with the action asked for: scores within -10 to 10."""
    servers: list[InferenceServer] = []

    def make(action: str) -> str:
        built = packages(change=lambda manifest: replace(manifest, guards=(Guard("scores", -10.0, 10.0, action),)))
        device.activation.hand_over(built.handover(1))
        servers.append(InferenceServer(device.service, short / "i.sock", None, "0", lambda: True))
        servers[0].start()
        return f"unix:{servers[0].socket}"

    yield make
    for server in servers:
        server.stop(0)


@pytest.mark.parametrize(("action", "said"), [("pass", ""), ("flag", "Output 'scores' has 3 of 3 elements outside")])
def test_a_guard_that_passes_or_flags_lets_the_answer_out_and_counts(
    guarded: Callable, device: Any, kit: ModuleType, action: str, said: str
) -> None:
    with Client(guarded(action)) as client:
        fine = client.infer("watch", {"window": kit.window()})
        strange = client.infer("watch", {"window": kit.window() + numpy.float32(100)})
    assert fine.guard == ""
    assert strange.guard.startswith(said)
    assert bool(strange.guard) == bool(said)
    evidence = device.reports()["1.0.0"].evidence
    assert (evidence.requests, evidence.errors, evidence.guarded) == (2, 0, 1)


def test_a_guard_that_refuses_answers_an_error_that_counts_as_the_models(
    guarded: Callable, device: Any, kit: ModuleType
) -> None:
    target = guarded("refuse")
    nan = numpy.full_like(kit.window(), NAN)
    request = service_pb2.ModelInferRequest(model_name="watch")
    request.inputs.add(name="window", datatype="FP32", shape=nan.shape)
    request.raw_input_contents.append(nan.tobytes())
    with pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(target)).ModelInfer(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    with Client(target) as client, pytest.raises(Refused, match="3 of 3 elements outside"):
        client.infer("watch", {"window": nan})
    evidence = device.reports()["1.0.0"].evidence
    assert (evidence.requests, evidence.errors, evidence.guarded) == (2, 2, 2)
    assert device.service.counters("watch").failures == 2


def test_a_callers_mistake_is_no_evidence_against_the_model(guarded: Callable, device: Any, kit: ModuleType) -> None:
    with Client(guarded("flag")) as client:
        for wrong in ({"windw": kit.window()}, {"window": kit.window()[:, :3]}):
            with pytest.raises(Refused):
                client.infer("watch", wrong)
    evidence = device.reports()["1.0.0"].evidence
    assert (evidence.requests, evidence.errors) == (0, 0)
    assert device.service.counters("watch").invalid == 2
