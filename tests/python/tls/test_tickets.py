"""A session that one loop of a pool gave is resumed on another, by a ticket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

import loop_pool

from ..support import HANG, receive, self_signed

pytestmark = pytest.mark.usefixtures("clean_process")

versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


def trusting_context(module: Any, version: ssl.TLSVersion) -> ssl.SSLContext:
    context: ssl.SSLContext = module.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    return context


class Servers:
    """A server on each loop of the running pool, each with a port of its own, of one context."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._servers: list[asyncio.Server] = []
        self.ports: list[int] = []
        self.connections: list[tuple[int, bool]] = []
        """Of each connection the number of its loop, and whether its session was resumed."""

    async def __aenter__(self) -> Servers:
        for number, loop in enumerate(loop_pool.current_pool().loops):
            server = await loop_pool.spawn(self._listen(number), loop=loop)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        for server, loop in zip(self._servers, loop_pool.current_pool().loops, strict=True):
            await loop_pool.spawn(self._end(server), loop=loop)

    async def _end(self, server: asyncio.Server) -> None:
        server.close()
        await server.wait_closed()

    async def _listen(self, number: int) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert asyncio.get_running_loop() is loop_pool.current_pool().loops[number]
            reused = writer.get_extra_info("ssl_object").session_reused
            self.connections.append((number, reused))
            writer.write(await reader.readexactly(1))
            await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

        return await asyncio.start_server(answer, "127.0.0.1", 0, ssl=self._context)


@versions
def test_a_ticket_of_loop_0_is_good_on_loop_3(version: ssl.TLSVersion) -> None:
    server_context, _ = self_signed()
    client_context = trusting_context(ssl, version)

    def ask(port: int, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession]:
        with (
            socket.create_connection(("127.0.0.1", port), HANG) as plain,
            client_context.wrap_socket(plain, session=session) as sock,
        ):
            sock.sendall(b"?")
            # With TLS 1.3, tickets come before the answer.
            assert receive(sock, 1) == b"?"
            assert sock.session is not None
            return bool(sock.session_reused), sock.session

    async def main() -> None:
        async with Servers(server_context) as servers:
            reused, session = await asyncio.to_thread(ask, servers.ports[0], None)
            assert not reused
            for number in (3, 0, 2):
                reused, _ = await asyncio.to_thread(ask, servers.ports[number], session)
                assert reused
            assert servers.connections == [(0, False), (3, True), (0, True), (2, True)]

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=4)


@versions
def test_a_session_of_a_client_on_loop_0_is_resumed_by_loop_3(
    contexts: Any, version: ssl.TLSVersion
) -> None:
    if contexts is ssl:
        pytest.skip("asyncio's clients resume nothing with OpenSSL")
    server_context, _ = self_signed()
    client_context = trusting_context(contexts, version)
    client_context.remembers_sessions = True  # type: ignore[attr-defined]

    async def ask(port: int) -> bool:
        # The name is what a client remembers its sessions by.
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context, server_hostname="localhost"
        )
        writer.write(b"?")
        assert await reader.readexactly(1) == b"?"
        reused: bool = writer.get_extra_info("ssl_object").session_reused
        writer.close()
        await writer.wait_closed()
        return reused

    async def main() -> None:
        loops = loop_pool.current_pool().loops
        async with Servers(server_context) as servers:
            for here, there, resumes in ((0, 1, False), (3, 2, True), (1, 3, True)):
                reused = await loop_pool.spawn(ask(servers.ports[there]), loop=loops[here])
                assert reused == resumes
            assert servers.connections == [(1, False), (2, True), (3, True)]

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=4)
