"""How a TLS connection ends: by either side, by time, and by what a protocol raises."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest

from ..support import (
    HANG,
    BufferedRecorder,
    Recorder,
    eventually,
    read_out,
    run_main,
    self_signed,
    turns,
)
from .support import shaken

type Loop = asyncio.AbstractEventLoop


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("together", [True, False])
def test_the_peer_says_that_it_ends(loop: Loop, make: Any, together: bool) -> None:
    async def main() -> None:
        async with shaken(make) as (transport, protocol, peer):
            records = peer.seal(b"last")
            if not together:
                await peer.send(records)
                await protocol.got(4)
                records = b""
            await peer.send(records + peer.close_notify())
            assert await protocol.ended() is None
            assert protocol.data == b"last"
            assert protocol.count("eof_received") == 1
            calls = [name for name in protocol.calls if name != "get_buffer"]
            assert calls[-2:] == ["eof_received", "connection_lost"]
            assert transport.is_closing()
            assert await peer.read_end() == b""

    run_main(loop, main())


def test_an_answer_to_the_last_word_still_goes_out(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            protocol.hooks["data_received"] = transport.write
            await peer.send(peer.seal(b"last") + peer.close_notify())
            assert await peer.read_end() == b"last"
            assert await protocol.ended() is None

    run_main(loop, main())


@pytest.mark.parametrize("what", ["nothing", "a record", "half a record"])
def test_the_peer_ends_without_a_word(loop: Loop, what: str) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (_, protocol, peer):
            records = peer.seal(b"last")
            if what != "nothing":
                await peer.send(records if what == "a record" else records[:-1])
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.ended() is None
            assert protocol.data == (b"last" if what == "a record" else b"")
            assert protocol.count("eof_received") == 1

    run_main(loop, main())


def test_the_peer_ends_while_reading_is_paused(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            transport.pause_reading()
            await peer.send(peer.seal(b"last") + peer.close_notify())
            peer.sock.shutdown(socket.SHUT_WR)
            await turns()
            assert protocol.calls == ["connection_made"]
            transport.resume_reading()
            assert await protocol.ended() is None
            assert protocol.data == b"last"

    run_main(loop, main())


def test_what_is_written_before_close_goes_out_before_the_close_notify(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            transport.write(b"last")
            transport.close()
            transport.write(b"lost")
            assert await peer.read_end() == b"last"
            await peer.send(peer.close_notify())
            assert await protocol.ended() is None

    run_main(loop, main())


def test_a_peer_that_does_not_answer_the_close_notify_is_given_up(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder, ssl_shutdown_timeout=0.05) as (transport, protocol, _):
            transport.close()
            assert isinstance(await protocol.ended(), TimeoutError)

    run_main(loop, main())


def test_what_comes_after_close_is_dropped(loop: Loop, reported: list[dict[str, Any]]) -> None:
    async def main() -> None:
        async with shaken(Recorder, ssl_shutdown_timeout=0.05) as (transport, protocol, peer):
            transport.close()
            await peer.send(peer.seal(b"too late"))
            await protocol.ended()
            assert protocol.data == b""

    run_main(loop, main())


def test_a_broken_record_ends_the_connection(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (_, protocol, peer):
            records = bytearray(peer.seal(b"question"))
            records[-1] ^= 1
            await peer.send(bytes(records))
            assert isinstance(await protocol.ended(), ssl.SSLError)
            assert protocol.data == b""

    run_main(loop, main())


@pytest.mark.parametrize("name", ["data_received", "eof_received", "get_buffer", "buffer_updated"])
def test_what_a_protocol_raises_ends_its_connection(
    loop: Loop, reported: list[dict[str, Any]], name: str
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        make: Any = BufferedRecorder if "buffer" in name else Recorder
        async with shaken(make) as (_, protocol, peer):
            protocol.hooks[name] = fails
            await peer.send(peer.seal(b"x") + peer.close_notify())
            assert isinstance(await protocol.ended(), ZeroDivisionError)

    run_main(loop, main())
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
    expected = {"eof_received": "Error calling eof_received()"}
    assert reported[0]["message"] == expected.get(name, "Fatal error on SSL protocol")


def test_a_connection_error_of_a_protocol_is_not_reported(
    loop: Loop, reported: list[dict[str, Any]]
) -> None:
    error = ConnectionAbortedError("mine")

    def fails(_: bytes) -> None:
        raise error

    async def main() -> None:
        async with shaken(lambda: Recorder(data_received=fails)) as (_, protocol, peer):
            await peer.send(peer.seal(b"x"))
            assert await protocol.ended() is error

    run_main(loop, main())
    assert reported == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_gets_through(loop: Loop, kind: type[BaseException]) -> None:
    def ends(_: bytes) -> None:
        raise kind

    async def main() -> None:
        async with shaken(lambda: Recorder(data_received=ends)) as (_, _, peer):
            await peer.send(peer.seal(b"x"))
            await asyncio.sleep(HANG)

    with pytest.raises(kind):
        loop.run_until_complete(main())


def test_a_protocol_closes_in_the_middle(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):

            def close(_: bytes) -> None:
                transport.write(b"bye")
                transport.close()

            protocol.hooks["data_received"] = close
            await peer.send(peer.seal(b"x"))
            assert await peer.read_end() == b"bye"
            await peer.send(peer.close_notify())
            assert await protocol.ended() is None
            assert protocol.count("data_received") == 1

    run_main(loop, main())


def test_a_protocol_aborts_in_the_middle(loop: Loop) -> None:
    async def main() -> None:
        async with shaken(Recorder) as (transport, protocol, peer):
            protocol.hooks["data_received"] = lambda _: transport.abort()
            await peer.send(peer.seal(b"x", b"y"))
            assert await protocol.ended() is None
            assert protocol.calls == ["connection_made", "data_received", "connection_lost"]

    run_main(loop, main())


def test_an_empty_buffer_ends_the_connection(loop: Loop, reported: list[dict[str, Any]]) -> None:
    async def main() -> None:
        async with shaken(lambda: BufferedRecorder(0)) as (_, protocol, peer):
            await peer.send(peer.seal(b"x"))
            await turns(3)
            await peer.send(peer.close_notify())
            await protocol.ended()
            assert protocol.data == b""

    run_main(loop, main())


# A server's handshakes


@pytest.mark.loop_pool_only
@pytest.mark.parametrize("debug", [False, True])
def test_a_factory_that_fails_costs_its_connection(
    loop: Loop, contexts: Any, reported: list[dict[str, Any]], debug: bool
) -> None:
    """asyncio leaves the socket to the garbage collector, which warns of it."""

    def fails() -> Any:
        raise ZeroDivisionError

    async def main() -> None:
        server_context, _ = self_signed()
        server = await loop.create_server(fails, "127.0.0.1", 0, ssl=server_context)
        with socket.create_connection(server.sockets[0].getsockname(), HANG) as far:
            assert await asyncio.to_thread(read_out, far) == b""
        server.close()
        await server.wait_closed()

    loop.set_debug(debug)
    run_main(loop, main())
    loop.set_debug(False)
    # Without debug mode asyncio says nothing.
    is_said = debug or contexts is not ssl
    assert [type(each.get("exception")) for each in reported] == [ZeroDivisionError] * is_said


@pytest.mark.parametrize("debug", [False, True])
def test_a_handshake_that_fails_is_reported_in_debug_mode(
    loop: Loop, reported: list[dict[str, Any]], debug: bool
) -> None:
    protocols: list[Recorder] = []

    def make() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    async def main() -> None:
        server_context, _ = self_signed()
        server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context)
        with socket.create_connection(server.sockets[0].getsockname(), HANG) as far:
            far.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await asyncio.to_thread(read_out, far)
        assert protocols[0].calls == []
        await turns()
        server.close()
        await server.wait_closed()

    loop.set_debug(debug)
    run_main(loop, main())
    loop.set_debug(False)
    assert [each["message"] for each in reported] == [
        "Error on transport creation for incoming connection"
    ] * debug
    for each in reported:
        assert isinstance(each["exception"], ssl.SSLError)
        assert each["protocol"] is protocols[0]


@pytest.mark.usefixtures("by_openssl")
def test_a_handshake_is_cancelled_with_the_other_tasks(loop: Loop) -> None:
    async def main() -> None:
        server_context, _ = self_signed()
        server = await loop.create_server(Recorder, "127.0.0.1", 0, ssl=server_context)
        with socket.create_connection(server.sockets[0].getsockname(), HANG) as far:
            here = asyncio.current_task()
            await eventually(lambda: len(asyncio.all_tasks() - {here}) >= 1, "it is accepted")
            await turns()
            for task in asyncio.all_tasks() - {here}:
                task.cancel()
            assert await asyncio.to_thread(read_out, far) == b""
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_a_server_gives_up_a_silent_peer(loop: Loop) -> None:
    async def main() -> None:
        server_context, _ = self_signed()
        server = await loop.create_server(
            Recorder, "127.0.0.1", 0, ssl=server_context, ssl_handshake_timeout=0.05
        )
        with socket.create_connection(server.sockets[0].getsockname(), HANG) as far:
            assert await asyncio.to_thread(read_out, far) == b""
        server.close()
        await server.wait_closed()

    run_main(loop, main())


def test_a_server_s_transport_has_all_that_one_may_ask(loop: Loop) -> None:
    async def main() -> None:
        made: asyncio.Future[Any] = loop.create_future()
        server_context, client_context = self_signed()
        server = await loop.create_server(
            lambda: Recorder(connection_made=made.set_result),
            *("127.0.0.1", 0),
            ssl=server_context,
        )
        address = server.sockets[0].getsockname()
        client = Recorder()
        transport, _ = await loop.create_connection(
            lambda: client, *address, ssl=client_context, server_hostname="localhost"
        )
        info = (await made).get_extra_info
        assert info("peername") == transport.get_extra_info("sockname")
        assert info("sockname") == address
        assert info("socket").getpeername() == info("peername")
        assert info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert info("sslcontext") is server_context
        assert info("cipher") == transport.get_extra_info("cipher")
        assert info("peercert") == {} or info("peercert") is None
        transport.close()
        await client.ended()
        server.close()
        await server.wait_closed()

    run_main(loop, main())
