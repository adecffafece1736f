"""Where the connections of a pool-wide server go, by count."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually
from .support import loops, run

pytestmark = pytest.mark.usefixtures("clean_process")


async def _where(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says on which loop it runs, and stays as long as its client does."""
    writer.write(b"%d" % loops().index(asyncio.get_running_loop()))
    await reader.read()
    writer.close()


def _ask(address: Any, count: int, keep: contextlib.ExitStack | None) -> collections.Counter[str]:
    """Connects so many times, one after another; where each connection went."""
    answers: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        client = socket.create_connection(address, timeout=HANG)
        answers[client.recv(10).decode()] += 1
        if keep is None:
            client.close()
        else:
            keep.enter_context(client)
    return answers


@contextlib.asynccontextmanager
async def _blocked(*numbers: int) -> AsyncIterator[None]:
    """These loops wait inside a callback meanwhile, and the pool knows."""
    free = threading.Event()

    async def block() -> None:
        free.wait(HANG)

    before = loop_pool.current_pool().stats()
    blocked = [loop_pool.spawn(block(), loop=loops()[number]) for number in numbers]

    def is_known(number: int) -> bool:
        return loop_pool.current_pool().stats()[number].handoffs > before[number].handoffs

    try:
        await eventually(lambda: all(map(is_known, numbers)), "they are helped")
        yield
    finally:
        free.set()
        for each in blocked:
            await each


def test_no_connection_goes_to_a_stuck_loop_while_another_is_free() -> None:
    """Nor does one wait for it: what the kernel gives to its listener is taken from there."""

    async def main() -> None:
        async with (
            await loop_pool.start_server(_where, "127.0.0.1", 0, backlog=1024) as server,
            _blocked(1, 2),
        ):
            address = server.sockets[0].getsockname()
            assert await asyncio.to_thread(_ask, address, 1000, None) == {"0": 1000}

    run(main, loops=3)


def test_a_busy_loop_gets_few_of_the_connections() -> None:
    async def main() -> None:
        done = False

        def spin() -> None:
            if not done:
                asyncio.get_running_loop().call_soon(spin)

        with contextlib.ExitStack() as keep:
            async with await loop_pool.start_server(_where, "127.0.0.1", 0) as server:
                before = loop_pool.current_pool().stats()[1].busy
                loops()[1].call_soon_threadsafe(spin)
                await eventually(
                    lambda: loop_pool.current_pool().stats()[1].busy > before + 2, "it is busy"
                )
                address = server.sockets[0].getsockname()
                answers = await asyncio.to_thread(_ask, address, 32, keep)
                done = True
                keep.close()
        assert answers["0"] >= 24, answers

    run(main)
