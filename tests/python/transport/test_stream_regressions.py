"""Promises of transports that were broken once: each test would have failed then."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from ..support import drain


class _Ending:
    """Knows when its connection is lost."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class _Lending(_Ending, asyncio.BufferedProtocol):
    raises: Exception | None = None

    def get_buffer(self, sizehint: int) -> bytearray:
        if self.raises is not None:
            raise self.raises
        self.transport.abort()
        return bytearray(sizehint if sizehint > 0 else 1)


@pytest.mark.parametrize("raises", [None, ValueError("no buffer")], ids=["aborts", "raises"])
def test_a_protocol_may_end_its_transport_when_it_is_asked_for_a_buffer(
    pair: tuple[socket.socket, socket.socket],
    loop: asyncio.AbstractEventLoop,
    raises: Exception | None,
) -> None:
    # The end waits for whoever reads; here the owner itself was about to.
    async def main() -> object:
        _, protocol = await loop.create_connection(_Lending, sock=pair[0].dup())
        protocol.raises = raises
        pair[1].send(b"x")
        return await protocol.lost

    loop.set_exception_handler(lambda *_: None)
    assert loop.run_until_complete(main()) is raises


class _Pausing(_Ending, asyncio.Protocol):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.resumed = asyncio.Event()

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")
        self.resumed.set()


@pytest.mark.parametrize("closing", [False, True], ids=["resumes", "closes"])
def test_a_write_that_takes_the_queue_along_has_all_its_effects(
    pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop, closing: bool
) -> None:
    # There is room again, the transport's turn is still to come, and the program writes before it.
    async def main() -> list[str]:
        transport, protocol = await loop.create_connection(_Pausing, sock=pair[0].dup())
        transport.set_write_buffer_limits(high=100, low=10)
        while not protocol.told:
            transport.write(bytes(100_000))
        await asyncio.sleep(0)
        if closing:
            transport.close()
        while transport.get_write_buffer_size():
            drain(pair[1])
            loop.call_soon(transport.write, b"y")
            loop.call_soon(drain, pair[1])
            await asyncio.sleep(0)
        await (protocol.lost if closing else protocol.resumed.wait())
        transport.abort()
        await protocol.lost
        return protocol.told

    assert loop.run_until_complete(main())[:2] == ["pause", "resume"]
