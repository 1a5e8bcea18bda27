"""The doubles: the same verbs and errors as the clients they stand for."""

from __future__ import annotations

import asyncio
import inspect

import numpy
import pytest

from hybridge_edge.client import AsyncClient, Client, InferenceAnswer
from hybridge_edge.contract.errors import InvalidInput, ModelNotFound, Overloaded, Unavailable
from hybridge_edge.testing import FakeAsyncClient, FakeClient

WINDOW = {"window": numpy.ones((1, 3), numpy.float32)}


def verbs(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(member)
        for name, member in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name != "fail"
    }


@pytest.mark.parametrize(("real", "double"), [(Client, FakeClient), (AsyncClient, FakeAsyncClient)])
def test_a_double_has_the_verbs_of_what_it_stands_for(real: type, double: type) -> None:
    assert verbs(double) == verbs(real)
    assert {"__enter__", "__aenter__"} & set(vars(real)) == {"__enter__", "__aenter__"} & set(vars(double))


def test_it_answers_remembers_and_fails_as_it_is_told() -> None:
    with FakeClient({"watch": lambda inputs: {"sum": inputs["window"].sum(axis=1)}, "fixed": {"y": [1.0]}}) as client:
        answer = client.infer("watch", WINDOW, sample_id="one", timeout_s=3)
        assert isinstance(answer, InferenceAnswer)
        assert (answer.outputs["sum"].tolist(), answer.version, answer.sample_id) == ([3.0], "1.0.0", "one")
        assert client.infer("fixed", {}, outputs=("y",)).outputs["y"].tolist() == [1.0]
        assert [(one.model, one.sample_id, one.timeout_s) for one in client.requests[:1]] == [("watch", "one", 3)]
        client.fail(Overloaded("Too many wait."), Unavailable("Away."))
        for error in (Overloaded, Unavailable):
            with pytest.raises(error):
                client.infer("watch", WINDOW)
        assert client.infer("watch", WINDOW).sample_id.startswith("sample-")
        client.feedback("one", "left", model="watch")
        assert (client.labels[0].sample_id, client.labels[0].label, client.labels[0].source) == (
            "one",
            "left",
            "device",
        )
        client.wait_ready("watch")
    assert client.closed


def test_it_refuses_as_the_server_does() -> None:
    client = FakeClient({"watch": {"y": numpy.zeros(1)}})
    for error, ask in (
        (ModelNotFound, lambda: client.infer("other", WINDOW)),
        (ModelNotFound, lambda: client.infer("watch", WINDOW, version="2.0.0")),
        (ModelNotFound, lambda: client.feedback("one", "left", model="other")),
        (InvalidInput, lambda: client.infer("watch", WINDOW, outputs=("z",))),
        (InvalidInput, lambda: client.infer("watch", {"window": [1.0]})),  # type: ignore[dict-item]
        (Unavailable, lambda: client.wait_ready("other")),
    ):
        with pytest.raises(error):
            ask()


def test_the_async_double_does_the_same() -> None:
    async def story() -> None:
        async with FakeAsyncClient({"watch": {"y": numpy.zeros(1)}}) as client:
            assert (await client.infer("watch", WINDOW)).model == "watch"
            assert await client.model_ready("watch")
            client.fail(Unavailable("Away."))
            with pytest.raises(Unavailable):
                await client.infer("watch", WINDOW)
            await client.feedback("one", "left", model="watch")
            assert len(client.labels) == 1

    asyncio.run(story())
