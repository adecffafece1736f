"""Datagram transports on the loops of a pool, whose other threads send for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually, turns


class Fails(asyncio.DatagramProtocol):
    """Does not like to hear of errors."""

    def error_received(self, exc: Exception) -> None:
        raise ZeroDivisionError


async def endpoint(folder: str) -> Any:
    """A unix datagram transport that is not connected."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Fails, local_addr=f"{folder}/near", family=socket.AF_UNIX
    )
    return transport


def test_the_failure_of_an_earlier_datagram_is_not_the_caller_s() -> None:
    # It was raised by the `sendto` that flushed what had been left to another thread.
    raised: list[object] = []
    reported: list[type[BaseException]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(type(context["exception"])))
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
        ):
            far.bind(f"{folder}/far")
            far.setblocking(False)
            transport = await endpoint(folder)

            def send_to_nobody() -> None:
                loop.call_soon(send_well)
                # The loop is behind, so this is queued if another thread is free to send it. If
                # none is, the error is this caller's, and reported as well.
                transport.sendto(b"bad", f"{folder}/nobody")

            def send_well() -> None:
                try:
                    transport.sendto(b"good", f"{folder}/far")
                except BaseException as exc:
                    raised.append(exc)

            for number in range(1, 101):
                for _ in range(20):
                    loop.call_soon(lambda: None)
                loop.call_soon(send_to_nobody)
                await eventually(lambda: len(reported) == number, "it is told")  # noqa: B023
                came: list[bytes] = []

                def all_came() -> bool:
                    with contextlib.suppress(BlockingIOError):
                        came.append(far.recv(10))  # noqa: B023
                    return bool(came or raised)  # noqa: B023

                await eventually(all_came, "the other one comes")
            transport.close()
            await turns()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2)
    assert raised == []
    assert reported == [ZeroDivisionError] * 100


@pytest.mark.parametrize("name", ["far", "fär"])
def test_bytes_are_counted_whoever_sends_them(name: str) -> None:
    def sent() -> int:
        return loop_pool.current_pool().stats()[0].bytes_out

    async def main() -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
        ):
            far.bind(f"{folder}/{name}")
            transport = await endpoint(folder)
            before, size = sent(), 0
            while not transport.get_write_buffer_size():
                transport.sendto(bytes(100), f"{folder}/{name}")
                size += 100
            assert sent() == before + size - 100
            far.recv(100)
            await eventually(lambda: sent() == before + size, "what waited is counted")
            transport.close()
            await turns()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=1)
