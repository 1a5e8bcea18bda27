"""Tasks on the direct socket: many at once, and cancelled ones of which nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

import numpy
import pytest
from direct_peers import ECHO, PATIENCE_S, Impostor, leftovers, mapped, wide

from hybridge_edge import runtime
from hybridge_edge.client import AsyncClient
from hybridge_edge.client.direct import DEFAULT_CONNECTIONS
from hybridge_edge.contract.errors import HybridgeError

Right = Callable[..., None]


async def soon(condition: Callable[[], object]) -> bool:
    until = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        if asyncio.get_running_loop().time() > until:
            return False
        await asyncio.sleep(0.01)
    return True


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


def remembered(here: Any) -> list[Any]:
    """The calls that the service is asked with from now on."""
    calls: list[Any] = []
    infer = here.service.infer

    def remember(request: Any, call: Any) -> Any:
        calls.append(call)
        return infer(request, call)

    here.service.infer = remember
    return calls


def open_direct(client: AsyncClient) -> int:
    assert client._connected is not None
    return client._connected.direct.open


def test_many_tasks_at_once_each_get_their_own_answer(direct: Any, kit: ModuleType, right: Right) -> None:
    async def small(client: AsyncClient, seed: int) -> None:
        values = kit.window(1, seed)
        right(await client.infer("watch", {"window": values}), values)

    async def large(client: AsyncClient, seed: int) -> None:
        values = wide(seed, 1 + seed % 3)
        assert numpy.array_equal((await client.infer(ECHO, {"x": values})).outputs["y"], values)

    async def story() -> None:
        async with AsyncClient(direct.target) as client:
            asking: list[Awaitable[None]] = [small(client, seed) for seed in range(60)]
            asking += [large(client, seed) for seed in range(30)]
            await asyncio.gather(*asking)
            assert 1 <= open_direct(client) <= DEFAULT_CONNECTIONS
            for seed in range(20):  # and one after the other still on the same connections
                await large(client, seed)
            assert open_direct(client) <= DEFAULT_CONNECTIONS
            assert await soon(lambda: mapped(direct) > 0)
        assert await soon(lambda: not direct.direct._open)
        assert mapped(direct) == 0

    asyncio.run(story())


def test_a_cancelled_task_cancels_the_server_s_run_and_leaves_nothing(
    direct: Any, kit: ModuleType, right: Right
) -> None:
    calls = remembered(direct)

    async def story() -> None:
        async with AsyncClient(direct.target, streams=0) as client:
            right(await client.infer("watch", {"window": kit.window()}), kit.window())
            connection = client._connected
            assert connection is not None
            (kept,) = connection.direct._pool._idle
            task = asyncio.create_task(client.infer("held", {"window": kit.window()}, timeout_s=60))
            assert await soon(lambda: direct.held.entered.acquire(blocking=False))
            assert not calls[-1].cancelled
            await cancelled(task)
            assert await soon(lambda: calls[-1].cancelled)
            assert kept._socket.fileno() == -1
            assert open_direct(client) == 0
            direct.held.go.set()
            right(await client.infer("watch", {"window": kit.window(1, 5)}), kit.window(1, 5))
            assert kept not in connection.direct._pool._idle
            assert await soon(lambda: len(direct.direct._open) == 1)

    asyncio.run(story())


def test_tasks_cancelled_at_any_moment_leave_no_descriptor_and_no_memory(
    direct: Any, kit: ModuleType, right: Right
) -> None:
    async def ask(client: AsyncClient, turn: int) -> None:
        await client.infer(ECHO, {"x": wide(turn, 1 + turn % 4)})

    async def story() -> None:
        async with AsyncClient(direct.target, streams=0, direct=2) as client:
            await client.model_ready("watch")  # grpc's own descriptors are there
            before = leftovers()
            finished = 0
            for turn in range(80):
                task = asyncio.create_task(ask(client, turn))
                for _ in range(turn % 16):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.0003 * (turn % 5))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                    finished += 1
                assert open_direct(client) <= 2
            assert finished < 80
            for seed in range(4):
                assert numpy.array_equal((await client.infer(ECHO, {"x": wide(seed)})).outputs["y"], wide(seed))
            held = leftovers()  # the control: what is there while it is in use is seen
            assert held[0] > before[0]
            assert held[1] > before[1]
            (idle,) = client._connected.direct._pool._idle  # type: ignore[union-attr]
            client._connected.direct._pool._idle.clear()  # type: ignore[union-attr]
            client._connected.direct._pool._lent.add(idle)  # type: ignore[union-attr]
            client._connected.direct._pool.drop(idle)  # type: ignore[union-attr]
            assert await soon(lambda: leftovers() <= before)
            assert mapped(direct) == 0

    asyncio.run(story())


@pytest.mark.parametrize("shared_bytes", [1 << 40, 1])
def test_a_task_cancelled_while_nobody_reads_leaves_nothing_with_the_loop(
    shared_bytes: int, here: Any, kit: ModuleType
) -> None:
    """Its request is larger than what the system keeps; or its memory waits to be mapped."""
    ended: list[bool] = []

    def read_nothing(accepted: socket.socket) -> None:
        while not ended:
            accepted.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                accepted.recv(1, socket.MSG_PEEK)
        accepted.settimeout(PATIENCE_S)
        while accepted.recv(1 << 20):
            pass
        ended.append(True)

    async def story() -> None:
        async with AsyncClient(here.target, shared_bytes=shared_bytes) as client:
            await client.model_ready("watch")
            before = leftovers()
            task = asyncio.create_task(client.infer(ECHO, {"x": wide(0, 8)}))
            assert await soon(lambda: leftovers() > before)
            await asyncio.sleep(0.05)
            (connection,) = client._connected.direct._pool._lent  # type: ignore[union-attr]
            number = connection._socket.fileno()
            loop: Any = asyncio.get_running_loop()
            assert number in loop._selector.get_map()
            assert connection._writing == (shared_bytes > 1)
            await cancelled(task)
            assert number not in loop._selector.get_map()
            ended.append(False)
            assert await soon(lambda: len(ended) == 2)
            assert await soon(lambda: leftovers() <= before)

    with Impostor(here.folder / runtime.DIRECT_SOCKET, read_nothing):
        asyncio.run(story())


def test_an_idle_connection_whose_server_goes_is_closed_at_once(direct: Any, kit: ModuleType, right: Right) -> None:
    async def story() -> None:
        async with AsyncClient(direct.target, streams=0) as client:
            await client.infer(ECHO, {"x": wide()})
            (idle,) = client._connected.direct._pool._idle  # type: ignore[union-attr]
            assert leftovers()[1]
            await asyncio.to_thread(direct.stop)
            assert await soon(lambda: idle._socket.fileno() == -1)
            assert await soon(lambda: leftovers()[1] == 0)
            await asyncio.to_thread(direct.start, direct=True)
            right(await client.infer("watch", {"window": kit.window()}), kit.window())

    asyncio.run(story())


def test_a_client_closed_while_tasks_ask_lets_them_end_and_keeps_nothing(
    direct: Any, kit: ModuleType, right: Right
) -> None:
    async def story() -> None:
        client = AsyncClient(direct.target, streams=0)
        task = asyncio.create_task(client.infer("held", {"window": kit.window()}, timeout_s=60))
        assert await soon(lambda: direct.held.entered.acquire(blocking=False))
        await client.close()
        direct.held.go.set()
        right(await task, kit.window(), 1.0)
        assert await soon(lambda: not direct.direct._open)
        right(await client.infer("watch", {"window": kit.window()}), kit.window())  # it connects again
        await client.close()
        assert await soon(lambda: not direct.direct._open)

    asyncio.run(story())


def test_a_burst_of_clients_finds_room_or_another_way(direct: Any, kit: ModuleType, right: Right) -> None:
    """More than the server accepts at once, which a Unix socket says in a way of its own."""

    async def one(seed: int) -> None:
        async with AsyncClient(direct.target, streams=0) as client:
            try:
                right(await client.infer("watch", {"window": kit.window(1, seed)}), kit.window(1, seed))
            except HybridgeError as error:
                raise AssertionError(error) from error

    async def story() -> None:
        await asyncio.gather(*(one(seed) for seed in range(60)))
        assert await soon(lambda: not direct.direct._open)

    asyncio.run(story())
