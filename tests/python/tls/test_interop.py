"""Programs that know nothing of `loop_pool.tls` take its contexts."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

import loop_pool

from ..support import HANG, run_main, self_signed

type Loop = asyncio.AbstractEventLoop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100_000):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_aiohttp_on_both_sides(loop: Loop) -> None:
    import aiohttp
    from aiohttp import web

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.scheme} {await request.text()}")

    async def main() -> None:
        server_context, client_context = self_signed()
        app = web.Application()
        app.router.add_post("/", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "localhost", 0, ssl_context=server_context)
        await site.start()
        port = runner.addresses[0][1]
        async with aiohttp.ClientSession() as session:
            for body in ("short", "long" * 100_000):
                url = f"https://localhost:{port}/"
                async with session.post(url, data=body, ssl=client_context) as response:
                    assert await response.text() == f"https {body}"
        await runner.cleanup()

    run_main(loop, main())


def test_httpx_as_a_client(loop: Loop) -> None:
    import httpx

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n" + bytes(300_000))
        writer.close()

    async def main() -> None:
        server_context, client_context = self_signed()
        async with await asyncio.start_server(serve, "localhost", 0, ssl=server_context) as server:
            port = server.sockets[0].getsockname()[1]
            async with httpx.AsyncClient(verify=client_context) as client:
                answer = await client.get(f"https://localhost:{port}/")
                assert (answer.status_code, answer.content) == (200, bytes(300_000))
            async with httpx.AsyncClient(verify=ssl.create_default_context()) as client:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get(f"https://localhost:{port}/")

    run_main(loop, main())


def test_a_pool_wide_server() -> None:
    async def main() -> None:
        server_context, client_context = self_signed()
        server = await loop_pool.start_server(echo, "localhost", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]

        async def client(number: int) -> None:
            reader, writer = await loop_pool.open_connection("localhost", port, ssl=client_context)
            data = bytes([number]) * 50_000
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            writer.close()
            await writer.wait_closed()

        async with loop_pool.TaskGroup() as group:
            for number in range(16):
                group.create_task(client(number))
        server.close()
        await server.wait_closed()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=4)


def test_a_session_of_one_loop_is_resumed_on_another(contexts: Any) -> None:
    server_context, _ = self_signed()
    client_context = contexts.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE
    client_context.remembers_sessions = True

    async def main() -> None:
        reused: list[bool] = []
        loops = set()

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            loops.add(asyncio.get_running_loop())
            writer.write(b"hello")
            await reader.read()
            writer.close()

        server = await loop_pool.start_server(greet, "localhost", 0, ssl=server_context)
        port = server.sockets[0].getsockname()[1]
        held = []
        for _ in range(8):
            # They stay open, so that the next one goes to a loop that has fewer.
            reader, writer = await asyncio.open_connection("localhost", port, ssl=client_context)
            assert await reader.readexactly(5) == b"hello"
            reused.append(writer.get_extra_info("ssl_object").session_reused)
            held.append(writer)
        assert len(loops) > 1
        # With OpenSSL, asyncio's clients resume nothing.
        assert any(reused[1:]) == all(reused[1:]) == (contexts is not ssl)
        for writer in held:
            writer.close()
        server.close()
        await server.wait_closed()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=3)


def test_a_blocking_client_of_openssl(loop: Loop) -> None:
    server_context, _ = self_signed()
    client_context = ssl.create_default_context()
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE

    def ask(port: int) -> bytes:
        import socket

        with socket.create_connection(("127.0.0.1", port), HANG) as plain:
            with client_context.wrap_socket(plain) as sock:
                sock.sendall(b"x" * 300_000)
                answer = b""
                while len(answer) < 300_000:
                    answer += sock.recv(65536)
                sock.unwrap().close()
                return answer

    async def main() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert await asyncio.to_thread(ask, port) == b"x" * 300_000

    run_main(loop, main())
