"""Sequences over the wire of a real server: unmodified tritonclient, our clients by every way, a killed worker."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import tritonclient.grpc as triton

from hybridge_edge.client import AsyncClient, Client
from hybridge_edge.contract.errors import InvalidInput, Overloaded, SequenceLost, Unavailable

COUNT = 6


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with the counter in it."""
    conftest = request.config.pluginmanager.get_plugin(str(Path(__file__).with_name("conftest.py")))
    folder = Path(tempfile.mkdtemp(prefix="hyb", dir="/tmp"))
    one = conftest._server(folder, kit.trust_of(kit.signer()))
    try:
        kit.activate(one.store, kit.build_counter(tmp_path_factory.mktemp("counter") / "1.0.0"))
        yield one.start()
        assert one.stop() == 0, one.said
    finally:
        if one.process is not None and one.process.poll() is None:
            one.kill_tree()
        shutil.rmtree(folder)


def tensors(value: numpy.ndarray) -> list[triton.InferInput]:
    made = triton.InferInput("x", [1, len(value)], "FP32")
    made.set_data_from_numpy(value.reshape(1, -1))
    return [made]


def test_tritonclient_asks_sequences_unary_and_on_a_stream(served: Any, kit: ModuleType) -> None:
    values, wanted = kit.steps_of(1, COUNT), kit.counted(kit.steps_of(1, COUNT))
    with triton.InferenceServerClient(served.endpoint.tcp) as client:
        for name in (7, "seven"):
            flags = [{"sequence_start": at == 0, "sequence_end": at == COUNT - 1} for at in range(COUNT)]
            found = [
                client.infer(kit.COUNTER, tensors(value), sequence_id=name, **flag).as_numpy("sum")
                for value, flag in zip(values, flags, strict=True)
            ]
            assert numpy.array_equal(numpy.vstack(found), wanted)
            with pytest.raises(triton.InferenceServerException, match="does not run here") as lost:
                client.infer(kit.COUNTER, tensors(values[0]), sequence_id=name)
            assert lost.value.status() == "StatusCode.ABORTED"
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name in (8, "eight"):  # two sequences mixed on one stream, sent ahead
            client.async_stream_infer(kit.COUNTER, tensors(values[0]), sequence_id=name, sequence_start=True)
        for value in values[1:]:
            for name in (8, "eight"):
                client.async_stream_infer(kit.COUNTER, tensors(value), sequence_id=name)
        client.async_stream_infer(kit.COUNTER, tensors(values[0]), sequence_id=99, request_id="stray")
        found = []
        for _ in range(2 * COUNT):
            result, error = answers.get(timeout=20)
            assert error is None, error
            found.append(result.as_numpy("sum"))
        _, error = answers.get(timeout=20)
        assert "never began" in str(error)
        client.stop_stream()
        for which in (0, 1):
            assert numpy.array_equal(numpy.vstack(found[which::2]), wanted)
        configuration = client.get_model_config(kit.COUNTER).config
        assert [one.input_name for one in configuration.sequence_batching.state] == ["before", "total", "seen"]


@pytest.mark.parametrize("ways", [{}, {"direct": 0}, {"direct": 0, "streams": 0}], ids=["direct", "stream", "calls"])
def test_our_client_asks_by_every_way(served: Any, kit: ModuleType, ways: dict[str, int]) -> None:
    values = kit.steps_of(2, COUNT)
    with Client(served.endpoint.inference, **ways) as client:
        with client.sequence(kit.COUNTER) as one, client.sequence(kit.COUNTER, sequence_id=2**63) as other:
            found: dict[Any, list[Any]] = {one: [], other: []}
            for value in values:
                for sequence in found:
                    found[sequence].append(sequence.infer({"x": value.reshape(1, -1)}).outputs["sum"])
        for answers in found.values():
            assert numpy.array_equal(numpy.vstack(answers), kit.counted(values))
        with pytest.raises(SequenceLost, match="over"):
            one.infer({"x": values[:1]})
        again = client.sequence(kit.COUNTER, sequence_id=one.id)
        again._progress.running = True
        with pytest.raises(SequenceLost, match="it has ended"):  # leaving the block has ended it in the server too
            again.infer({"x": values[:1]})


def test_the_asyncio_client_asks_sequences(served: Any, kit: ModuleType) -> None:
    values = kit.steps_of(3, COUNT)

    async def ask(client: AsyncClient) -> numpy.ndarray:
        async with client.sequence(kit.COUNTER) as sequence:
            found = [
                (await sequence.infer({"x": value.reshape(1, -1)}, last=at == COUNT - 1)).outputs["sum"]
                for at, value in enumerate(values)
            ]
        return numpy.vstack(found)

    async def both() -> list[numpy.ndarray]:
        async with AsyncClient(served.endpoint.inference) as client:
            return await asyncio.gather(ask(client), ask(client))

    for found in asyncio.run(both()):
        assert numpy.array_equal(found, kit.counted(values))


def test_a_swap_and_a_killed_worker_under_a_running_sequence(server: Any, kit: ModuleType, tmp_path: Path) -> None:
    kit.activate(server.store, kit.build_counter(tmp_path / "1.0.0"))
    served = server.start()
    values = kit.steps_of(4, COUNT)

    def sent(value: numpy.ndarray) -> dict[str, numpy.ndarray]:
        return {"x": value.reshape(1, -1)}

    with Client(served.endpoint.inference) as client:
        sequence = client.sequence(kit.COUNTER)
        found = [sequence.infer(sent(value)) for value in values[:2]]
        built = kit.build_counter(tmp_path / "1.1.0", "1.1.0", probes=4)
        assert served.hand_over(built.handover(2))["state"] == "ACTIVE"
        found += [sequence.infer(sent(value)) for value in values[2:4]]
        assert {one.version for one in found} == {"1.0.0"}
        assert numpy.array_equal(numpy.vstack([one.outputs["sum"] for one in found]), kit.counted(values[:4]))
        with client.sequence(kit.COUNTER) as fresh:
            assert fresh.infer(sent(values[0])).version == "1.1.0"
        with pytest.raises(InvalidInput):
            sequence.infer({"x": numpy.zeros((1, 3), numpy.float32)})  # a refusal ends nothing
        pid = served.endpoint.pid
        os.kill(pid, signal.SIGKILL)
        served.wait(not_pid=pid)
        with pytest.raises((SequenceLost, Unavailable)) as lost:
            sequence.infer(sent(values[4]))
        with pytest.raises(SequenceLost, match="is over"):
            sequence.infer(sent(values[4]))
        assert "again" in str(lost.value) or isinstance(lost.value, Unavailable)
        with client.sequence(kit.COUNTER) as fresh:
            assert fresh.infer(sent(values[0])).outputs["count"].tolist() == [1]


def test_limits_are_settings(server: Any, kit: ModuleType, tmp_path: Path, wait_for: Any) -> None:
    kit.activate(server.store, kit.build_counter(tmp_path / "1.0.0"))
    server.arguments += ["--sequences", "1", "--sequence-seconds", "1"]
    server.start()
    value = {"x": kit.steps_of()[:1]}
    with Client(server.endpoint.inference) as client:
        sequence = client.sequence(kit.COUNTER)
        sequence.infer(value)
        refused = client.sequence(kit.COUNTER)
        said: list[str] = []

        def begins() -> bool:
            try:
                refused.infer(value)
            except Overloaded as error:
                said.append(str(error))
            return refused._progress.running

        wait_for(begins)  # the first one is forgotten after a second
        assert all("no room for another sequence" in one for one in said)
        assert said
        with pytest.raises(SequenceLost, match="idle for more than 1 s"):
            sequence.infer(value)
