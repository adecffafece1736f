"""A client that resets: what a handler on native streams sees, and what is logged."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from loop_pool._loop import streams

from ..support import eventually, reset, run_main, stuff

type Loop = asyncio.AbstractEventLoop
type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]

CLIENTS = 10


async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    return await reader.read(10)


async def read_a_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    return await reader.readline()


async def read_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    return [line async for line in reader]


async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    stuff(writer.transport)
    writer.transport.set_write_buffer_limits(high=0)
    return await writer.drain()


async def wait_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    return await writer.wait_closed()


async def wait_closed_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    await eventually(writer.is_closing, "the reset is seen")
    await asyncio.sleep(0)
    return await writer.wait_closed()


async def ask_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    await eventually(writer.is_closing, "the reset is seen")
    return None


async def cancelled_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    """Its `wait_closed` is cancelled: the future that it waited for is cancelled too."""
    waiting = asyncio.create_task(writer.wait_closed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await eventually(writer.is_closing, "the reset is seen")
    return waiting.cancelled()


HANDLERS = [
    read,
    read_a_line,
    read_lines,
    drain,
    wait_closed,
    wait_closed_later,
    ask_nothing,
    cancelled_close,
]


async def outcomes(start: Any, handler: Handler) -> list[str]:
    """What a handler came to, for each of some clients that reset."""
    seen: list[str] = []
    ready = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        ready.release()
        try:
            seen.append(repr(await handler(reader, writer)))
        except OSError as error:
            seen.append(type(error).__name__)
        finally:
            writer.close()

    server = await start(serve, "127.0.0.1", 0)
    for number in range(CLIENTS):
        client = socket.create_connection(server.sockets[0].getsockname())
        client.sendall(b"hello")
        await ready.acquire()
        await asyncio.sleep(0)
        reset(client)
        await eventually(lambda number=number: len(seen) > number, "the handler is done")
    server.close()
    await server.wait_closed()
    return seen


@pytest.mark.smoke
@pytest.mark.loop_pool_only
@pytest.mark.parametrize("handler", HANDLERS)
def test_a_reset_that_was_dealt_with_is_not_logged(
    loop: Loop, handler: Handler, logged_errors: list[str]
) -> None:
    native = run_main(loop, outcomes(streams.listen, handler))
    gc.collect()
    assert not logged_errors
    # asyncio's own streams have a finalizer for this, and log if the collector comes to it late.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as oracle:
        assert oracle.run(outcomes(asyncio.start_server, handler)) == native
    gc.collect()
    logged_errors.clear()
