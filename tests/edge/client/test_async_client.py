"""The same of the client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from hybridge_edge.client import AsyncClient
from hybridge_edge.client.streams import STREAM_AFTER
from hybridge_edge.contract.errors import DeadlineExceeded, InvalidInput, ModelNotFound, Overloaded, Unavailable

Right = Callable[..., None]


async def warm(client: AsyncClient, kit: ModuleType) -> None:
    for _ in range(STREAM_AFTER + 1):
        await client.infer("watch", {"window": kit.window()})


def open_streams(client: AsyncClient) -> int:
    connected = client._connected
    return connected.streams.open if connected is not None else 0


@pytest.mark.parametrize("streams", [0, 1])
def test_answers_refusals_and_deadlines(streams: int, here: Any, kit: ModuleType, right: Right) -> None:
    async def story() -> None:
        async with AsyncClient(here.target, streams=streams) as client:
            await warm(client, kit)
            assert open_streams(client) == streams
            for error, model, arguments in (
                (ModelNotFound, "other", {}),
                (InvalidInput, "watch", {"outputs": ("nothing",)}),
                (DeadlineExceeded, "held", {"timeout_s": 0.2}),
            ):
                with pytest.raises(error):
                    await client.infer(model, {"window": kit.window()}, **arguments)
            here.held.go.set()
            here.service.refuse = Overloaded("Too many wait.", "Later.")
            here.service.asked.clear()
            with pytest.raises(Overloaded):
                await client.infer("watch", {"window": kit.window()})
            assert len(here.service.asked) == 1
            here.service.refuse = None
            for seed in range(4):
                answer = await client.infer("watch", {"window": kit.window(1, seed)}, sample_id=f"s-{seed}")
                right(answer, kit.window(1, seed))
                assert answer.sample_id == f"s-{seed}"
            assert await client.model_ready("watch")

    asyncio.run(story())


def test_tasks_share_a_client_and_a_cancelled_one_spoils_no_other(here: Any, kit: ModuleType, right: Right) -> None:
    async def ask(client: AsyncClient, number: int) -> None:
        for turn in range(20):
            values = kit.window(1, 100 * number + turn)
            right(await client.infer("watch", {"window": values}), values)

    async def story() -> None:
        async with AsyncClient(here.target) as client:
            await warm(client, kit)
            stuck = asyncio.create_task(client.infer("held", {"window": kit.window()}, timeout_s=60))
            while not here.held.entered.acquire(blocking=False):
                await asyncio.sleep(0.01)
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck
            here.held.go.set()
            await asyncio.gather(*(ask(client, number) for number in range(4)))
            assert open_streams(client) == 1

    asyncio.run(story())


@pytest.mark.parametrize("streams", [0, 1])
def test_a_server_that_starts_again_elsewhere_is_found(streams: int, here: Any, kit: ModuleType, right: Right) -> None:
    async def story() -> None:
        async with AsyncClient(streams=streams) as client:
            await warm(client, kit)
            here.stop()
            asking = asyncio.create_task(client.infer("watch", {"window": kit.window()}, timeout_s=20))
            await asyncio.sleep(0.3)
            here.start("other.sock")
            right(await asking, kit.window())
            right(await client.infer("watch", {"window": kit.window()}), kit.window())
            here.stop()
            with pytest.raises(Unavailable, match="attempts within"):
                await client.infer("watch", {"window": kit.window()}, timeout_s=0.4)

    asyncio.run(story())


def test_waiting_tells_what_is_waited_for(here: Any, kit: ModuleType) -> None:
    told: list[str] = []

    async def story() -> None:
        async with AsyncClient.connect() as client:
            await client.wait_ready("watch")
            with pytest.raises(Unavailable, match="no other is on this device yet"):
                await client.wait_ready("other", timeout_s=0.2, progress=told.append)

    asyncio.run(story())
    assert told == ["no other is on this device yet"]
