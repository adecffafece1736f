"""Transports whose bytes pass rustls: what they promise beyond asyncio's, and what only they do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import loop_pool
from loop_pool import tls

from ..pool.support import run
from ..support import (
    HANG,
    BufferedRecorder,
    Recorder,
    Threads,
    certificate,
    check_script,
    eventually,
    run_main,
    turns,
)
from .support import Peer

type Loop = asyncio.AbstractEventLoop

pytestmark = pytest.mark.loop_pool_only

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(autouse=True)
def contexts() -> Any:
    """Only these contexts make such transports."""
    return tls


def server_context() -> tls.SSLContext:
    context = tls.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate("keycertecc.pem"))
    assert context.native
    return context


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


class Server:
    """A server of the running loop, with the protocols that it made."""

    def __init__(self, make: Any = Recorder, **options: Any) -> None:
        self.make, self.options = make, options
        self.protocols: list[Any] = []

    def protocol(self) -> Any:
        self.protocols.append(self.make())
        return self.protocols[-1]

    async def __aenter__(self) -> Server:
        self.server = await asyncio.get_running_loop().create_server(
            self.protocol, "127.0.0.1", 0, ssl=server_context(), **self.options
        )
        self.address = self.server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for protocol in self.protocols:
            if protocol.calls and not protocol.lost.done():
                protocol.transport.abort()
                await protocol.ended()

    async def peer(self) -> Peer:
        """Connects, and waits until the connection has its transport."""
        count = len(self.protocols)
        peer = Peer(socket.create_connection(self.address, HANG), client_context())
        await eventually(lambda: len(self.protocols) > count, "it was accepted")
        return peer

    async def shaken(self) -> tuple[Any, Any, Peer]:
        peer = await self.peer()
        await peer.step(peer.tls.do_handshake)
        protocol = self.protocols[-1]
        await eventually(lambda: bool(protocol.calls), "the protocol was introduced")
        return protocol.transport, protocol, peer


def test_there_is_no_protocol_of_asyncios_in_between(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            assert transport.get_protocol() is protocol
            assert not isinstance(transport, asyncio.sslproto._SSLProtocolTransport)
            connection = transport.get_extra_info("ssl_object")
            assert isinstance(connection, ssl.SSLObject)
            assert transport.get_extra_info("ssl_object") is connection
            assert connection.server_side
            assert connection.cipher() == transport.get_extra_info("cipher") == peer.tls.cipher()
            assert connection.version() == peer.tls.version() == "TLSv1.3"
            assert connection.getpeercert() is None
            assert transport.get_extra_info("peercert", "none") is None
            assert transport.get_extra_info("compression", "none") is None
            assert transport.get_extra_info("sslcontext").native
            assert transport.get_extra_info("peername") == peer.sock.getsockname()
            assert transport.get_extra_info("unknown", 5) == 5
            for misused in (connection.read, connection.do_handshake, connection.unwrap):
                with pytest.raises(ValueError, match="the connection is its transport's"):
                    misused()
            peer.sock.close()

    run_main(loop, main())


def test_nothing_is_told_before_the_handshake_is_finished(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            peer = await server.peer()
            await turns(50)
            assert server.protocols[0].calls == []
            await peer.step(peer.tls.do_handshake)
            await eventually(lambda: bool(server.protocols[0].calls), "introduced")
            peer.sock.close()

    run_main(loop, main())


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_data_right_behind_the_handshake_come_after_the_introduction(loop: Loop, make: Any) -> None:
    async def main() -> None:
        async with Server(make) as server:
            peer = await server.peer()
            await peer.shake_and_send(b"at once")
            protocol = server.protocols[0]
            await eventually(lambda: protocol.data == b"at once", "it came")
            assert protocol.calls[0] == "connection_made"
            peer.sock.close()

    run_main(loop, main())


def test_a_protocol_that_pauses_when_it_is_introduced_gets_nothing(loop: Loop) -> None:
    async def main() -> None:
        def make() -> Recorder:
            return Recorder(connection_made=lambda transport: transport.pause_reading())

        async with Server(make) as server:
            peer = await server.peer()
            await peer.shake_and_send(b"later")
            protocol = server.protocols[0]
            await eventually(lambda: bool(protocol.calls), "introduced")
            await turns(50)
            assert protocol.data == b""
            protocol.transport.resume_reading()
            await eventually(lambda: protocol.data == b"later", "it came")
            peer.sock.close()

    run_main(loop, main())


@pytest.mark.parametrize("paused", [False, True])
def test_a_close_waits_for_the_peers_word(loop: Loop, paused: bool) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            if paused:
                transport.pause_reading()
            transport.write(b"last")
            transport.close()
            assert transport.is_closing()
            transport.close()
            transport.write(b"lost")
            assert await peer.read_end() == b"last"
            await peer.send(peer.seal(b"dropped"))
            await turns(50)
            assert not protocol.lost.done()
            await peer.send(peer.close_notify())
            assert await protocol.ended() is None
            assert protocol.data == b""
            assert protocol.count("eof_received") == 1
            peer.sock.close()

    run_main(loop, main())


def test_a_close_in_eof_received_ends_the_connection_at_once(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            protocol.hooks["eof_received"] = transport.close
            peer.sock.shutdown(socket.SHUT_WR)  # without a word
            assert await protocol.ended() is None
            peer.sock.close()

    run_main(loop, main())


@pytest.mark.parametrize("says_so", [True, False])
def test_a_truncated_connection_is_noticed(
    loop: Loop, says_so: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Server() as server:
            _, protocol, peer = await server.shaken()
            await peer.send(peer.seal(b"data") + (peer.close_notify() if says_so else b""))
            peer.sock.shutdown(socket.SHUT_WR)
            assert await protocol.ended() is None, "as in asyncio"
            assert protocol.data == b"data"
            assert protocol.count("eof_received") == 1
            # A peer without a word hears none, as from asyncio.
            while records := await loop.sock_recv(peer.sock, 65536):
                peer.incoming.write(records)
            peer.incoming.write_eof()
            heard = ssl.SSLZeroReturnError if says_so else ssl.SSLEOFError
            with pytest.raises(heard):
                peer.tls.read(1)
            peer.sock.close()

    loop.set_debug(True)
    with caplog.at_level(logging.DEBUG, "asyncio"):
        run_main(loop, main())
    loop.set_debug(False)
    ends = [message for message in caplog.messages if "received EOF" in message]
    assert [message.endswith("without a close_notify") for message in ends] == [not says_so]


def test_a_changed_record_ends_the_connection_by_an_error(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            _, protocol, peer = await server.shaken()
            good, bad = peer.seal(b"good"), bytearray(peer.seal(b"bad"))
            bad[-1] ^= 1
            await peer.send(good + bad)
            error = await protocol.ended()
            assert isinstance(error, ssl.SSLError)
            assert error.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
            assert protocol.data == b"good"
            with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
                await peer.step(lambda: peer.tls.read(1))
            peer.sock.close()

    run_main(loop, main())


def test_what_is_no_bytes_is_refused_as_asyncio_does(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, _, peer = await server.shaken()
            for wrong in ("text", 5, [b"list"]):
                with pytest.raises(TypeError, match="data: expecting a bytes-like instance, got"):
                    transport.write(wrong)
            assert not transport.can_write_eof()
            with pytest.raises(NotImplementedError):
                transport.write_eof()
            gaps = memoryview(b"abcdef")[::2]
            for data in (b"bytes", bytearray(b"array"), memoryview(b"view"), gaps, b""):
                transport.write(data)
            transport.writelines([b"some", b"lines"])
            assert await peer.read(26) == b"bytesarrayviewacesomelines"
            with pytest.raises(ValueError, match="must be >= low"):
                transport.set_read_buffer_limits(1, 2)
            transport.set_read_buffer_limits(high=100)
            assert transport.get_read_buffer_limits() == (25, 100)
            assert transport.get_read_buffer_size() == 0
            peer.sock.close()

    run_main(loop, main())


def test_a_large_write_is_queued_and_arrives(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            assert transport.get_write_buffer_limits() == (128 * 1024, 512 * 1024)
            content = bytes(range(256)) * 40_000
            transport.write(content)
            assert transport.get_write_buffer_size() > 512 * 1024
            assert protocol.count("pause_writing") == 1
            transport.write(b"end")
            assert await peer.read(len(content) + 3) == content + b"end"
            await eventually(lambda: protocol.count("resume_writing") == 1, "it goes on")
            peer.sock.close()

    run_main(loop, main())


def test_a_failed_handshake_leaves_nothing(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            gone = []
            for wrong in (b"GET / HTTP/1.1\r\n\r\n", b""):
                peer = await server.peer()
                protocol = server.protocols.pop()
                gone.append(weakref.ref(protocol))
                del protocol
                await peer.send(wrong)
                with contextlib.suppress(OSError):
                    peer.sock.shutdown(socket.SHUT_WR)
                with pytest.raises((EOFError, OSError)):
                    await peer.step(peer.tls.do_handshake)
                peer.sock.close()
            await eventually(lambda: not any(ref() for ref in gone), "the protocols are freed")

    gc.disable()  # no cycle leads to them
    try:
        run_main(loop, main())
    finally:
        gc.enable()


def test_a_transport_is_freed_at_its_end(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            transport.get_extra_info("ssl_object")
            gone = weakref.ref(transport)
            transport.abort()
            await protocol.ended()
            server.protocols.clear()
            del transport, protocol
            await eventually(lambda: gone() is None, "it is freed")
            peer.sock.close()

    gc.disable()
    try:
        run_main(loop, main())
    finally:
        gc.enable()


def test_a_call_of_another_thread_is_handed_on(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            await asyncio.to_thread(transport.write, b"from afar")
            assert await peer.read(9) == b"from afar"
            await asyncio.to_thread(transport.close)
            assert await peer.read_end() == b""
            await peer.send(peer.close_notify())
            assert await protocol.ended() is None
            peer.sock.close()

    run_main(loop, main())


def test_a_peer_that_has_closed_and_does_not_read_is_given_up(loop: Loop) -> None:
    async def main() -> None:
        async with Server(ssl_shutdown_timeout=0.1) as server:
            transport, protocol, peer = await server.shaken()
            transport.write(bytes(30_000_000))
            await peer.send(peer.close_notify())
            assert isinstance(await protocol.ended(), TimeoutError)
            peer.sock.close()

    run_main(loop, main())


def test_a_server_that_closes_its_clients_does_not_wait_for_them(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            transport.write(b"last")
            server.server.close()
            server.server.close_clients()
            assert await protocol.ended() is None
            await asyncio.wait_for(server.server.wait_closed(), HANG)
            assert await peer.read_end() == b"last"
            peer.sock.close()

    run_main(loop, main())


def test_who_waits_hears_what_connection_made_raises(loop: Loop) -> None:
    async def main() -> None:
        async with Server() as server:
            context = tls.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            raises = Recorder(connection_made=lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await loop.create_connection(lambda: raises, *server.address, ssl=context)
            assert isinstance(await raises.ended(), ZeroDivisionError)

    loop.set_exception_handler(lambda *_: None)
    run_main(loop, main())


def test_what_ends_the_program_in_connection_made_loses_no_data(loop: Loop) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    async def begin() -> tuple[Server, Peer]:
        server = await Server(lambda: Recorder(connection_made=interrupt)).__aenter__()
        peer = await server.peer()
        sending = asyncio.ensure_future(peer.shake_and_send(b"not lost"))
        sending.add_done_callback(lambda _: None)
        return server, peer

    async def end(server: Server, peer: Peer) -> None:
        await server.protocols[0].got(8)
        peer.sock.close()
        await server.__aexit__()

    server, peer = run_main(loop, begin())
    with pytest.raises(KeyboardInterrupt):
        run_main(loop, asyncio.sleep(HANG))
    run_main(loop, end(server, peer))


def test_a_loop_that_is_closed_in_a_handshake_closes_the_connection() -> None:
    loop = loop_pool.new_event_loop()

    async def main() -> tuple[Any, Peer]:
        server = await Server().__aenter__()
        peer = await server.peer()
        return server, peer

    gc.disable()
    try:
        server, peer = loop.run_until_complete(main())
        server.server.close()
        server.protocols.clear()
        loop.close()
        with peer.sock:
            peer.sock.settimeout(HANG)
            assert peer.sock.recv(1) == b""
    finally:
        gc.enable()


def test_a_buffer_is_not_filled_after_a_close(loop: Loop) -> None:
    async def main() -> None:
        def make() -> BufferedRecorder:
            protocol = BufferedRecorder(4)
            protocol.hooks["buffer_updated"] = lambda _: protocol.transport.close()
            return protocol

        async with Server(make) as server:
            _, protocol, peer = await server.shaken()
            await peer.send(peer.seal(b"much more than fits"))
            await peer.read_end()
            assert protocol.count("buffer_updated") == 1
            await peer.send(peer.close_notify())
            assert await protocol.ended() is None
            peer.sock.close()

    run_main(loop, main())


def test_a_forked_child_says_nothing_on_the_parents_connections() -> None:
    check_script(
        """
        import asyncio, os, socket, ssl, sys, warnings
        import loop_pool
        from loop_pool import tls

        async def main():
            server_side = tls.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            server_side.load_cert_chain(CERTIFICATE)
            made = asyncio.get_running_loop().create_future()

            class Protocol(asyncio.Protocol):
                def connection_made(self, transport):
                    made.set_result(transport)

            loop = asyncio.get_running_loop()
            server = await loop.create_server(Protocol, "127.0.0.1", 0, ssl=server_side)
            client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
            sock = socket.create_connection(server.sockets[0].getsockname())
            connection = await asyncio.to_thread(client.wrap_socket, sock)
            transport = await made
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # there are threads
                pid = os.fork()
            if pid == 0:
                transport.write(b"from the child")
                transport.close()
                transport.get_extra_info("cipher")
                os._exit(0)
            assert await asyncio.to_thread(os.waitpid, pid, 0) == (pid, 0)
            transport.write(b"still here")
            assert await asyncio.to_thread(connection.recv, 100) == b"still here"
            transport.abort()
            connection.close()
            server.close()

        loop_pool.run(main(), loops=1)
        """.replace("CERTIFICATE", repr(str(certificate("keycertecc.pem"))))
    )


@pytest.mark.parametrize("state", ["handshake", "open", "closed"])
def test_any_method_from_many_threads_at_once(state: str) -> None:
    """No method may harm memory, in whichever state; `connection_lost` comes once, or never."""

    def use(transport: Any, together: threading.Barrier) -> Callable[[], None]:
        methods: list[Callable[[], object]] = [
            lambda: transport.write(b"x" * 20_000),
            lambda: transport.writelines([b"x", bytearray(b"y" * 20_000)]),
            transport.pause_reading,
            transport.resume_reading,
            lambda: transport.set_write_buffer_limits(0),
            lambda: transport.set_read_buffer_limits(1 << 20),
            transport.get_write_buffer_size,
            transport.get_read_buffer_size,
            transport.is_closing,
            lambda: transport.get_extra_info("ssl_object"),
            lambda: transport.get_extra_info("cipher"),
            lambda: repr(transport),
        ]

        def each() -> None:
            together.wait(HANG)
            for _ in range(10):
                for method in methods:
                    method()
            for method in (transport.close, transport.abort):
                method()

        return each

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # what posted calls of a closed one raise
        client = tls.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            protocol = Recorder()
            waiter: Any = loop.create_future()
            transport = loop._make_ssl_transport(  # type: ignore[attr-defined]
                ours, protocol, client, waiter, server_hostname="localhost"
            )
            if state != "handshake":
                peer = asyncio.create_task(
                    loop.connect_accepted_socket(Recorder, theirs, ssl=server_context())
                )
                await asyncio.wait_for(waiter, HANG)
                await peer
            if state == "closed":
                transport.close()
            together = threading.Barrier(4)

            def work() -> None:
                with Threads(*(use(transport, together) for _ in range(4))):
                    pass

            await asyncio.to_thread(work)
            if state == "handshake":
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(waiter, HANG)
                assert protocol.calls == []
            else:
                await protocol.ended()
                assert protocol.count("connection_lost") == 1

    run(main)


# A stuck loop


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_is_finished_while_the_loop_is_stuck(version: ssl.TLSVersion) -> None:
    async def main() -> None:
        async with Server() as server:
            sock = socket.create_connection(server.address, HANG)
            await eventually(lambda: bool(server.protocols), "it was accepted")
            sent, answered = threading.Event(), threading.Event()

            def client() -> None:
                with client_context(version).wrap_socket(sock) as connection:
                    connection.sendall(b"ahead")
                    sent.set()
                    assert connection.recv(6) == b"answer"
                answered.set()

            thread = threading.Thread(target=client)
            thread.start()
            assert sent.wait(HANG)  # Blocks the loop.
            protocol = server.protocols[0]
            assert protocol.calls == []
            await eventually(lambda: protocol.data == b"ahead", "it was read for the loop")
            assert protocol.calls[0] == "connection_made"
            protocol.transport.write(b"answer")
            await asyncio.to_thread(thread.join, HANG)
            assert answered.is_set()

    run(main)


def test_records_are_read_ahead_and_written_for_a_stuck_loop() -> None:
    async def main() -> None:
        async with Server() as server:
            transport, protocol, peer = await server.shaken()
            content = bytes(range(256)) * 100_000
            transport.write(content)
            assert transport.get_write_buffer_size() > 0
            took = threading.Event()

            def client() -> None:
                peer.sock.setblocking(True)
                received = 0
                while received < len(content):
                    peer.incoming.write(peer.sock.recv(1 << 20))
                    try:
                        while True:
                            received += len(peer.tls.read(1 << 20))
                    except ssl.SSLWantReadError:
                        pass
                peer.sock.sendall(peer.seal(b"a", b"b", b"c"))
                took.set()

            threading.Thread(target=client).start()
            assert took.wait(HANG)  # Blocks the loop.
            await eventually(lambda: protocol.data == b"abc", "it was read ahead, or is now")
            peer.sock.close()

    run(main)


def test_connections_of_a_pool_are_shaken_on_every_loop() -> None:
    async def handle(reader: Any, writer: Any) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
            await writer.drain()
        writer.close()

    async def main() -> None:
        server = await loop_pool.start_server(handle, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()

        def client() -> None:
            for _ in range(5):
                with (
                    socket.create_connection(address, HANG) as sock,
                    client_context().wrap_socket(sock) as connection,
                ):
                    for _ in range(20):
                        connection.sendall(b"question")
                        assert connection.recv(100) == b"QUESTION"

        await asyncio.gather(*(asyncio.to_thread(client) for _ in range(8)))
        server.close()
        await server.wait_closed()

    began = time.monotonic()
    run(main, loops=3)
    assert time.monotonic() - began < HANG
