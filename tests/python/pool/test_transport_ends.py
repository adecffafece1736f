"""What helpers have read for a stuck loop stays when a callback ends the program."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually, stream_sockets

pytestmark = pytest.mark.usefixtures("clean_process")


class Ending(asyncio.BufferedProtocol):
    """Ends the program once, in a callback."""

    def __init__(self, where: str, kind: type[BaseException]) -> None:
        self.data = bytearray()
        self.lost = threading.Event()
        self._buffer = bytearray(10)
        self._where: str | None = where
        self._kind = kind

    def _end(self, where: str) -> None:
        if self._where == where:
            self._where = None
            raise self._kind

    def get_buffer(self, sizehint: int) -> bytearray:
        self._end("get_buffer")
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]
        self._end("buffer_updated")

    def eof_received(self) -> None:
        self._end("eof_received")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["get_buffer", "buffer_updated", "eof_received"])
def test_what_was_read_ahead_is_delivered_all_the_same(
    where: str, kind: type[BaseException]
) -> None:
    near, far = stream_sockets("tcp")
    protocols: list[Ending] = []

    async def connect() -> None:
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(lambda: Ending(where, kind), sock=near)
        protocols.append(protocol)

    async def main() -> None:
        pool = loop_pool.current_pool()
        loop = pool.loops[1]
        await loop_pool.spawn(connect(), loop=loop)
        entered, leave = threading.Event(), threading.Event()

        async def get_stuck() -> None:
            entered.set()
            assert leave.wait(HANG)

        task: Any = loop_pool.spawn(get_stuck(), loop=loop)
        try:
            await eventually(entered.is_set, "the loop is stuck")
            far.sendall(bytes(range(100)))
            await eventually(lambda: pool.stats()[1].read_ahead == 100, "it is read ahead")
            far.close()
        finally:
            leave.set()
        await task
        await eventually(protocols[0].lost.is_set, "the connection is lost")

    with pytest.raises(kind):
        loop_pool.run(asyncio.wait_for(main(), HANG), loops=2)
    assert protocols[0].data == bytes(range(100))
    assert protocols[0].lost.is_set()
