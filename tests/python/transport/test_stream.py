"""Stream transports: what they are, what they tell, and how a connection begins and ends."""

from __future__ import annotations

import asyncio
import os
import socket
from asyncio import trsock
from typing import Any

import pytest

from ..support import (
    HANG,
    BufferedRecorder,
    Recorder,
    connected,
    eventually,
    listen,
    read_out,
    receive,
    reset,
    run_main,
    stream_sockets,
    stuff,
    turns,
)

KINDS = ["tcp", "tcp6", "unix"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the sockets."""
    return request.param


# What it is


@pytest.mark.smoke
def test_it_is_a_transport(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, _):
            assert isinstance(transport, asyncio.Transport)
            assert isinstance(transport, asyncio.ReadTransport)
            assert isinstance(transport, asyncio.WriteTransport)
            assert not isinstance(transport, asyncio.DatagramTransport)
            assert transport.get_protocol() is protocol
            assert transport.can_write_eof() is True
            assert transport.is_closing() is False
            assert transport.is_reading() is True
            assert transport.get_write_buffer_size() == 0
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)

    run_main(loop, main())


def test_extra_info(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, _, far):
            sock = transport.get_extra_info("socket")
            assert isinstance(sock, trsock.TransportSocket)
            assert transport.get_extra_info("peername") == far.getsockname()
            assert transport.get_extra_info("sockname") == far.getpeername()
            assert transport.get_extra_info("sockname") == sock.getsockname()
            assert transport.get_extra_info("nothing") is None
            assert transport.get_extra_info("nothing", "default") == "default"
            assert transport.get_extra_info("socket", "default") is sock
            assert (sock.family, sock.type) == (far.family, far.type)

    run_main(loop, main())


@pytest.mark.smoke
def test_the_socket_of_a_transport_is_of_use(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, _, far):
            sock = transport.get_extra_info("socket")
            assert os.readlink(f"/proc/self/fd/{sock.fileno()}").startswith("socket:")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getpeername() == far.getsockname()
            assert sock.gettimeout() == 0
            assert not os.get_blocking(sock.fileno())
            sock.setblocking(False)
            with pytest.raises(ValueError, match="cannot be blocking"):
                sock.setblocking(True)
            assert not hasattr(sock, "recv")
            assert not hasattr(sock, "close")
            with sock.dup() as copy:
                assert copy.getsockname() == sock.getsockname()

    run_main(loop, main())


def test_the_socket_may_be_shut_down_by_hand(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            assert await protocol.ended() is None
            assert "eof_received" in protocol.calls
            assert receive(far) == b""

    run_main(loop, main())


def test_extra_info_outlives_the_connection(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            names = ["peername", "sockname"]
            before = [transport.get_extra_info(name) for name in names]
            sock = transport.get_extra_info("socket")
            transport.close()
            await protocol.ended()
            assert [transport.get_extra_info(name) for name in names] == before
            assert transport.get_extra_info("socket") is sock
            assert sock.fileno() == -1
            assert before == [far.getsockname(), far.getpeername() if kind != "unix" else ""]

    run_main(loop, main())


def test_the_socket_is_open_until_connection_lost_returns(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        seen: list[bool] = []

        def lost(_: object) -> None:
            seen.append(near.fileno() == number)
            seen.append(protocol.transport.get_extra_info("socket").fileno() == number)

        near, far = stream_sockets(kind)
        number = near.fileno()
        protocol = Recorder(connection_lost=lost)
        transport, _ = await loop.create_connection(lambda: protocol, sock=near)
        with far:
            transport.close()
            await protocol.ended()
        assert seen == [True, True]
        assert near.fileno() == -1

    run_main(loop, main())


def test_methods_after_the_end_do_nothing(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, _):
            transport.close()
            await protocol.ended()
            transport.close()
            transport.abort()
            transport.pause_reading()
            transport.resume_reading()
            transport.write_eof()
            transport.write(b"")
            transport.write(b"x")
            transport.writelines([b"x"])
            transport.writelines([])
            assert transport.is_closing() is True
            assert transport.is_reading() is False
            assert transport.get_write_buffer_size() == 0
            assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
            assert transport.can_write_eof() is True
            assert transport.get_protocol() is None
            assert "closed" in repr(transport)
            await turns()
            assert protocol.calls == ["connection_made", "connection_lost"]

    run_main(loop, main())


# How it begins


@pytest.mark.smoke
def test_connection_made_comes_first_and_data_after_the_one_who_connects_goes_on(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    async def main() -> None:
        near, far = stream_sockets(kind)
        with far:
            far.sendall(b"there already")
            protocol = recorder()
            transport, same = await loop.create_connection(lambda: protocol, sock=near)
            assert same is protocol
            assert protocol.calls == ["connection_made"]
            assert protocol.transport is transport
            await protocol.got(13)
            assert protocol.data == b"there already"
            transport.close()
            await protocol.ended()

    run_main(loop, main())


def test_a_connection_may_be_written_to_and_closed_in_connection_made(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        def made(transport: Any) -> None:
            transport.write(b"hello")
            transport.close()

        async with connected(Recorder(connection_made=made), kind) as (transport, protocol, far):
            assert await protocol.ended() is None
            assert transport.is_closing()
            assert receive(far) == b"hello"

    run_main(loop, main())


def test_a_connect_that_is_cancelled_before_the_end_leaves_nothing(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        near, far = stream_sockets(kind)
        with far:
            protocol = Recorder()
            task = asyncio.create_task(loop.create_connection(lambda: protocol, sock=near))
            await asyncio.sleep(0)  # The transport exists, nobody has been told yet.
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await protocol.ended()
            assert near.fileno() == -1
            assert receive(far) == b""

    run_main(loop, main())


# How it ends


@pytest.mark.smoke
@pytest.mark.parametrize("unread", [b"", b"the last words"], ids=["at once", "after data"])
def test_the_end_of_the_peer(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any, unread: bytes
) -> None:
    async def main() -> None:
        async with connected(recorder(), kind) as (transport, protocol, far):
            far.sendall(unread)
            far.close()
            assert await protocol.ended() is None
            assert protocol.data == unread
            assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
            assert transport.is_closing()

    run_main(loop, main())


def test_a_reset_is_the_error_that_the_connection_is_lost_with(
    loop: asyncio.AbstractEventLoop, recorder: Any
) -> None:
    async def main() -> None:
        async with connected(recorder()) as (transport, protocol, far):
            reset(far)
            assert isinstance(await protocol.ended(), ConnectionResetError)
            assert "eof_received" not in protocol.calls
            assert transport.is_closing()

    run_main(loop, main())


def test_a_reset_while_reading_is_paused_is_seen_after_resuming(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            transport.pause_reading()
            reset(far)
            await turns(50)
            assert protocol.calls == ["connection_made"]
            transport.resume_reading()
            assert isinstance(await protocol.ended(), ConnectionResetError)

    run_main(loop, main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_the_own_end_is_announced_later_and_without_an_error(
    loop: asyncio.AbstractEventLoop, kind: str, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), kind) as (transport, protocol, far):
            getattr(transport, how)()
            assert transport.is_closing()
            assert not transport.is_reading()
            assert protocol.calls == ["connection_made"]
            for again in ("close", "abort", "close"):
                getattr(transport, again)()
            assert await protocol.ended() is None
            assert receive(far) == b""

    run_main(loop, main())


def test_nothing_is_delivered_after_close(
    loop: asyncio.AbstractEventLoop, kind: str, recorder: Any
) -> None:
    async def main() -> None:
        async with connected(recorder(), kind) as (transport, protocol, far):
            stuff(transport)
            transport.close()
            far.sendall(b"too late")
            await asyncio.to_thread(read_out, far)
            await protocol.ended()
            assert protocol.data == b""

    run_main(loop, main())


def test_closing_in_data_received_ends_deliveries(
    loop: asyncio.AbstractEventLoop, kind: str
) -> None:
    async def main() -> None:
        protocol = Recorder(data_received=lambda _: protocol.transport.close())
        async with connected(protocol, kind) as (_, _, far):
            sending = asyncio.create_task(asyncio.to_thread(_send_until_lost, far))
            await protocol.ended()
            assert protocol.count("data_received") == 1
            assert protocol.count("eof_received") == 0
            await sending

    run_main(loop, main())


def _send_until_lost(sock: socket.socket) -> None:
    try:
        for _ in range(100):
            sock.sendall(bytes(65536))
    except OSError:
        pass


@pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["data_received", "eof_received", "buffer_updated"])
def test_exits_from_a_protocol_end_the_run_and_not_the_connection(
    loop: asyncio.AbstractEventLoop, exit_: type[BaseException], method: str
) -> None:
    def leave(*_: object) -> None:
        raise exit_("out")

    async def connect() -> Any:
        kind = BufferedRecorder if method == "buffer_updated" else Recorder
        protocol = kind(**{method: leave})
        near, far = stream_sockets("tcp")
        await loop.create_connection(lambda: protocol, sock=near)
        return protocol, far

    async def end(protocol: Any) -> None:
        assert "connection_lost" not in protocol.calls
        protocol.transport.abort()
        await protocol.ended()

    protocol, far = run_main(loop, connect())
    with far:
        far.sendall(b"x")
        if method == "eof_received":
            far.shutdown(socket.SHUT_WR)
        with pytest.raises(exit_, match="out"):
            loop.run_forever()
        protocol.hooks.clear()
        run_main(loop, end(protocol))


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_write_error_ends_the_connection_with_it(
    loop: asyncio.AbstractEventLoop, how: str
) -> None:
    async def main() -> None:
        async with connected(Recorder(), "unix" if how == "close" else "tcp") as (
            transport,
            protocol,
            far,
        ):
            transport.pause_reading()  # The error is the write's to find.
            if how == "reset":
                reset(far)
            else:
                far.close()
            transport.write(b"x")
            transport.write(b"x")
            assert "connection_lost" not in protocol.calls
            assert isinstance(await protocol.ended(), (BrokenPipeError, ConnectionResetError))

    run_main(loop, main())


def test_a_reset_while_data_is_queued_ends_the_connection_with_an_error(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        async with connected(Recorder()) as (transport, protocol, far):
            transport.pause_reading()
            stuff(transport)
            transport.close()
            await turns()
            assert "connection_lost" not in protocol.calls
            reset(far)
            assert isinstance(await protocol.ended(), (BrokenPipeError, ConnectionResetError))
            assert transport.get_write_buffer_size() == 0

    run_main(loop, main())


@pytest.mark.parametrize("how", ["close", "abort", "eof", "reset", "raise"])
def test_a_hundred_connections_all_end_once(loop: asyncio.AbstractEventLoop, how: str) -> None:
    async def main() -> None:
        protocols: list[Recorder] = []

        def fail(_: object) -> None:
            raise OSError("not reported")

        def factory() -> Recorder:
            protocols.append(Recorder(**({"data_received": fail} if how == "raise" else {})))
            return protocols[-1]

        async with await loop.create_server(factory, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            clients = [socket.create_connection(address, HANG) for _ in range(100)]
            await eventually(lambda: len(protocols) == 100, "all are accepted")
            await eventually(lambda: all(each.calls for each in protocols), "all are connected")
            for number, client in enumerate(clients):
                client.send(b"x")
                if how == "eof":
                    client.close()
                elif how == "reset":
                    reset(client)
                elif how in {"close", "abort"}:
                    getattr(protocols[number].transport, how)()
            for protocol in protocols:
                error = await protocol.ended()
                assert isinstance(error, OSError) == (how in {"reset", "raise"})
            for client in clients:
                client.close()

    run_main(loop, main())


# The loop ends first


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_a_transport_outlives_its_loop_harmlessly(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> Recorder:
        protocol = Recorder()
        near, _ = sockets
        await loop.create_connection(lambda: protocol, sock=near)
        return protocol

    sockets = stream_sockets("tcp")
    protocol = run_main(loop, main())
    loop.close()
    transport = protocol.transport
    assert transport.is_closing() is False
    assert f"fd={sockets[0].fileno()}" in repr(transport)
    assert transport.get_extra_info("peername") == sockets[1].getsockname()
    transport.write(b"still sent")
    assert sockets[1].recv(100) == b"still sent"
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    assert protocol.calls == ["connection_made"]
    for sock in sockets:
        sock.close()


def test_an_open_listener_hands_its_backlog_to_the_next_loop(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def main() -> None:
        with listen() as listener, socket.create_connection(listener.getsockname()) as client:
            client.sendall(b"early")
            protocol = Recorder()
            async with await loop.create_server(lambda: protocol, sock=listener):
                await protocol.got(5)
                protocol.transport.close()
                await protocol.ended()

    run_main(loop, main())
