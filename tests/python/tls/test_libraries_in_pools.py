"""httpx, aiohttp and asyncpg over TLS, on all loops of a pool at once."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool

from ..services import postgres
from ..support import HANG, eventually
from .authority import Authority

LOOPS = 4
TIMES = 8

pytestmark = pytest.mark.usefixtures("clean_process")


async def on_each_loop(make: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine on each loop of the running pool, all at once."""
    async with loop_pool.TaskGroup() as group:
        for number, loop in enumerate(loop_pool.current_pool().loops):
            group.create_task(make(number), loop=loop)


def run(main: Coroutine[Any, Any, None]) -> None:
    loop_pool.run(asyncio.wait_for(main, HANG), loops=LOOPS)


async def answer_with_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP/1.1 as far as it is needed: sends back what came, over connections that are kept."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % length + body)
            await writer.drain()
    writer.close()


def body_of(number: int, time: int) -> bytes:
    return bytes([number, time]) * (50_000 if time % 3 == 0 else 5)


@pytest.mark.parametrize("verifies", [True, False])
def test_httpx_on_each_loop(contexts: Any, authority: Authority, verifies: bool) -> None:
    import httpx

    async def main() -> None:
        server = await loop_pool.start_server(
            answer_with_the_body, "127.0.0.1", 0, ssl=authority.server_context(contexts)
        )
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        context = authority.client_context(contexts, verifies=verifies)

        async def ask(number: int) -> None:
            async with httpx.AsyncClient(verify=context, trust_env=False) as client:
                for time in range(TIMES):
                    content = body_of(number, time)
                    assert (await client.post(url, content=content)).content == content

        await on_each_loop(ask)
        server.close()
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("verifies", [True, False])
def test_aiohttp_on_each_loop(contexts: Any, authority: Authority, verifies: bool) -> None:
    import aiohttp
    from aiohttp import web

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    ports: dict[int, int] = {}

    async def main() -> None:
        server_context = authority.server_context(contexts)
        client_context = authority.client_context(contexts, verifies=verifies)

        async def serve_and_ask(number: int) -> None:
            app = web.Application()
            app.router.add_post("/", echo)
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "localhost", 0, ssl_context=server_context)
            await site.start()
            ports[number] = runner.addresses[0][1]
            await eventually(lambda: len(ports) == LOOPS, "all serve")
            async with aiohttp.ClientSession() as session:
                for time in range(TIMES):
                    data = body_of(number, time)
                    # Its own server and those of the other loops.
                    url = f"https://localhost:{ports[time % LOOPS]}/"
                    async with session.post(url, data=data, ssl=client_context) as response:
                        assert await response.read() == data
            left.discard(number)
            await eventually(lambda: not left, "all are answered")
            await runner.cleanup()

        left = set(range(LOOPS))
        await on_each_loop(serve_and_ask)

    run(main())


@pytest.mark.parametrize("verifies", [True, False])
def test_asyncpg_on_each_loop(contexts: Any, authority: Authority, verifies: bool) -> None:
    import asyncpg

    context = authority.client_context(contexts, verifies=verifies)

    async def ask(number: int) -> None:
        async with asyncpg.create_pool(url, min_size=1, max_size=2, ssl=context) as database:
            for time in range(TIMES):
                encrypted, content = await database.fetchrow(
                    "select ssl, repeat($1, 100000) from pg_stat_ssl where pid = pg_backend_pid()",
                    str(time),
                )
                assert encrypted
                assert content == str(time) * 100_000

    async def main() -> None:
        await on_each_loop(ask)

    with postgres((authority.good.certificate, authority.good.key)) as url:
        run(main())


def test_asyncpg_refuses_a_server_of_another_name(contexts: Any, authority: Authority) -> None:
    import asyncpg

    context = authority.client_context(contexts)

    async def main() -> None:
        with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
            await asyncpg.connect(url, ssl=context)

    with postgres((authority.other_name.certificate, authority.other_name.key)) as url:
        run(main())
