"""However a handshake and records are cut, flipped or broken off: the data, or a clean error."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import loop_pool

from ..support import HANG, Threads, listen, receive, self_signed
from . import wire

type Loop = asyncio.AbstractEventLoop

QUESTION = (b"?", b"a question" * 5, bytes(range(250)))
"""One record each."""
LONG = bytes(20_000)
"""Longer than the longest record, so that a record never waits for bytes that do not come."""
APPLICATION_DATA = 23
HEADER = 5

versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


class Ends:
    """Contexts of both ends, and exchanges between them on a loop."""

    def __init__(self, loop: Loop, contexts: Any, version: ssl.TLSVersion) -> None:
        self._loop = loop
        server, client = self_signed()
        server.maximum_version = version
        if contexts is not ssl:
            # Otherwise the client would be OpenSSL's.
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            assert client.native  # type: ignore[attr-defined]
        self._contexts = (server, client)

    def exchange(self, question: tuple[bytes, ...] = QUESTION, **changes: Any) -> wire.Exchange:
        """One exchange over a wire; a hang is a failure."""
        talk = wire.exchange(*self._contexts, question, **changes)
        return self._loop.run_until_complete(asyncio.wait_for(talk, HANG))

    def lengths(self, question: tuple[bytes, ...] = QUESTION) -> dict[str, int]:
        """How many bytes go in each direction if nothing is changed."""
        good = self.exchange(question)
        assert good.faults() == []
        return {"to_server": len(good.to_server), "to_client": len(good.to_client)}


@pytest.fixture
def ends(loop: Loop, contexts: Any, version: ssl.TLSVersion) -> Ends:
    return Ends(loop, contexts, version)


def places(lengths: dict[str, int], step: int) -> Iterator[tuple[str, int]]:
    """Positions in both directions: the first ones, and from there on every `step`th."""
    for direction, length in lengths.items():
        yield from ((direction, at) for at in range(length) if at < HEADER or at % step == 0)


@versions
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_of_any_size_from_any_place_on(ends: Ends, size: int) -> None:
    """With pieces of one byte, a cut at every place of the handshake and of the records."""
    for offset in range(size):
        changed = ends.exchange(to_server=wire.cut(size, offset), to_client=wire.cut(size, offset))
        assert changed.faults() == [], offset


@versions
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_writes_of_one_byte_each(ends: Ends, size: int) -> None:
    question = tuple(bytes([number % 251]) for number in range(300))
    assert (
        ends.exchange(question, to_server=wire.cut(size), to_client=wire.cut(size)).faults() == []
    )


def cut_at_places(ends: Ends, step: int) -> None:
    for direction, at in places(ends.lengths(), step):
        assert ends.exchange(**{direction: wire.cut_once(at)}).faults() == [], (direction, at)


def break_off_at_places(ends: Ends, step: int) -> None:
    for direction, at in places(ends.lengths(), step):
        ends.exchange(**{direction: wire.broken_off(at)}).check()


def record_at(stream: bytes, at: int) -> tuple[int, int]:
    """The kind of the record at a position of a stream, and the position within it."""
    start = 0
    while True:
        end = start + HEADER + int.from_bytes(stream[start + 3 : start + HEADER])
        if at < end:
            return stream[start], at - start
        start = end


def flip_at_places(ends: Ends, step: int) -> None:
    chance = random.Random(step)
    question = (*QUESTION, LONG, b"!")
    lengths = {
        direction: min(length, 9_000) for direction, length in ends.lengths(question).items()
    }
    for direction, at in places(lengths, step):
        bit = chance.randrange(8)
        flipped = ends.exchange(question, **{direction: wire.flipped(at, bit)})
        flipped.check()
        receiver = flipped.server if direction == "to_server" else flipped.client
        sent = flipped.to_server if direction == "to_server" else flipped.to_client
        kind, within = record_at(sent, at)
        if kind == APPLICATION_DATA and within >= HEADER:
            assert receiver.data != flipped.question, (direction, at, bit)
            assert isinstance(receiver.error, ssl.SSLError), (direction, at, bit, receiver.error)


SOME = {
    "cut": (cut_at_places, 97),
    "broken off": (break_off_at_places, 61),
    "flipped": (flip_at_places, 89),
}
"""What is done, and at every how many places it is done by `make test`."""


@versions
@pytest.mark.parametrize("what", SOME)
def test_a_change_at_some_places(ends: Ends, what: str) -> None:
    check, step = SOME[what]
    check(ends, step)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.loop_pool_only
@versions
@pytest.mark.parametrize("what", SOME)
def test_a_change_at_every_place(ends: Ends, what: str) -> None:
    check, _ = SOME[what]
    check(ends, 1)


# -- a pool, over TCP


def carry_roughly(source: socket.socket, sink: socket.socket, chance: random.Random) -> None:
    """Carries bytes on in pieces of chance."""
    try:
        while data := source.recv(65536):
            while data:
                size = chance.choice((1, 5, 100, 1_000, 20_000))
                sink.sendall(data[:size])
                data = data[size:]
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # One end is gone; the other one sees that by itself.


def rough_client(address: Any, context: ssl.SSLContext, seed: int) -> None:
    """Asks a pool over a way that cuts as it likes, and checks the answer."""
    chance = random.Random(seed)
    content = chance.randbytes(60_000)
    with listen() as middle:
        plain = socket.create_connection(middle.getsockname(), HANG)
        near, _ = middle.accept()
    with near, socket.create_connection(address, HANG) as far:
        for sock in (near, far):
            sock.settimeout(HANG)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [
            lambda: carry_roughly(near, far, random.Random(seed + 1)),
            lambda: carry_roughly(far, near, random.Random(seed + 2)),
        ]
        with Threads(*ways), context.wrap_socket(plain, server_hostname="localhost") as sock:
            sent = threading.Thread(target=sock.sendall, args=(content,))
            sent.start()
            assert receive(sock, len(content)) == content
            sent.join()
            sock.unwrap().close()


@pytest.mark.usefixtures("clean_process")
def test_a_rough_way_to_a_pool() -> None:
    server_context, _ = self_signed()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname, client_context.verify_mode = False, ssl.CERT_NONE

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await loop_pool.start_server(echo, "127.0.0.1", 0, ssl=server_context)
        address = server.sockets[0].getsockname()
        clients = [
            asyncio.to_thread(rough_client, address, client_context, 3 * n) for n in range(6)
        ]
        await asyncio.gather(*clients)
        server.close()
        await server.wait_closed()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=4)
