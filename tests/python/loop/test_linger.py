"""To close a socket may take as long as its peer likes (`SO_LINGER`). Whoever closes one waits by
itself: no other loop of the process does, not even for a collection of garbage."""

from __future__ import annotations

import pytest

from ..support import check_script

LINGERING = """
    import asyncio, gc, inspect, os, select, socket, ssl, struct, sys, tempfile, threading, warnings
    import loop_pool

    LINGER, TURNS = 1000, 5  # a close that nobody ends outlasts the test
    closing, counted = threading.Event(), threading.Event()
    far = socket.socket()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def lingers(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        return sock

    async def count():
        "Turns of another loop, each with a collection, while the close waits; then lets it end."
        await asyncio.to_thread(closing.wait)
        for _ in range(TURNS):
            gc.collect()
            await asyncio.sleep(0)
        counted.set()
        far.close()  # with bytes unread: that resets the connection

    counter = threading.Thread(target=asyncio.run, args=(count(),),
                               kwargs={"loop_factory": loop_pool.new_event_loop})
    counter.start()

    class Writes(asyncio.Protocol):
        "Writes more than the peer takes, and is done when the peer takes no more."
        def __init__(self):
            self.full = asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport
            transport.write(bytes(3_000_000))
            asyncio.get_running_loop().call_later(0.2, self.full.set_result, None)

    def listen():
        return lingers(socket.create_server(("127.0.0.1", 0)))

    def pair():
        "A connected socket, the other end of which is `far`."
        with listen() as listener:
            far.connect(listener.getsockname())
            near = lingers(listener.accept()[0])
        near.setblocking(False)
        return near

    async def abort(transport):
        closing.set()
        transport.abort()
        while not transport._is_closed():
            await asyncio.sleep(0)

    async def accepted(start=None, **options):
        loop = asyncio.get_running_loop()
        made = loop.create_future()
        def factory():
            protocol = Writes()
            asyncio.get_running_loop().call_soon(made.set_result, protocol)
            return protocol
        listener = listen()
        server = await (start or loop.create_server)(factory, sock=listener, **options)
        await loop.run_in_executor(None, far.connect, listener.getsockname())
        protocol = await made
        await protocol.full
        return server, protocol.transport

    async def server():
        made, transport = await accepted()
        await abort(transport)
        made.close()

    async def given():
        _, protocol = await asyncio.get_running_loop().create_connection(Writes, sock=pair())
        await protocol.full
        await abort(protocol.transport)

    async def given_accepted():
        loop = asyncio.get_running_loop()
        _, protocol = await loop.connect_accepted_socket(Writes, pair())
        await protocol.full
        await abort(protocol.transport)

    async def subclass():
        class Own(socket.socket):
            def close(self):
                super().close()
        near = pair()
        near = Own(fileno=near.detach())
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(Writes, sock=near)
        await protocol.full
        closing.set()
        protocol.transport.abort()
        while near.fileno() != -1:
            await asyncio.sleep(0)

    async def streams():
        loop = asyncio.get_running_loop()
        handled = loop.create_future()
        async def handle(reader, writer):
            writer.write(bytes(3_000_000))
            await asyncio.sleep(0.2)
            handled.set_result(writer)
        listener = listen()
        made = await asyncio.start_server(handle, sock=listener)
        await loop.run_in_executor(None, far.connect, listener.getsockname())
        writer = await handled
        await abort(writer.transport)
        made.close()

    async def pipe():
        loop = asyncio.get_running_loop()
        near = pair()
        _, protocol = await loop.connect_write_pipe(Writes, near)
        await protocol.full
        await abort(protocol.transport)

    async def sendfile():
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            file.write(bytes(3_000_000))
            class Idle(asyncio.Protocol):
                pass
            transport, _ = await loop.create_connection(Idle, sock=pair())
            sending = asyncio.ensure_future(loop.sendfile(transport, file))
            while select.select([], [transport.get_extra_info("socket")], [], 0)[1]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            await abort(transport)
            await asyncio.wait([sending])
            sending.exception()

    async def tls():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        import test
        context.load_cert_chain(os.path.join(test.__path__[0], "certdata", "keycert.pem"))
        loop = asyncio.get_running_loop()
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        made = loop.create_future()
        def factory():
            protocol = Writes()
            made.set_result(protocol)
            return protocol
        listener = listen()
        server = await loop.create_server(factory, sock=listener, ssl=context)
        def connect():
            global far
            far.connect(listener.getsockname())
            far = client.wrap_socket(far)
        await loop.run_in_executor(None, connect)
        protocol = await made
        await protocol.full
        raw = protocol.transport._ssl_protocol._transport
        closing.set()
        protocol.transport.abort()
        while not raw._is_closed():
            await asyncio.sleep(0)
        server.close()

    async def pool():
        made, transport = await accepted(loop_pool.create_server)
        await loop_pool.call(transport._loop, abort, transport)
        made.close()
        await made.wait_closed()

    def announce_closing():
        "What is forgotten is closed by this thread, not by a collection in the one that counts."
        from loop_pool._loop.descriptors import KeepsDescriptor
        close = KeepsDescriptor._close_descriptor
        def announced(transport):
            closing.set()
            close(transport)
        KeepsDescriptor._close_descriptor = announced

    async def native(let_go):
        "A connection that has no transport yet."
        from loop_pool._loop.listeners import Listener
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        def connected(self, core):
            while True:
                try:
                    os.write(core.fd, bytes(100_000))
                except BlockingIOError:
                    break
            closing.set()
            let_go(core)
            del core
            over.set_result(None)
        Listener._connected = connected
        listener = listen()
        server = await loop.create_server(asyncio.Protocol, sock=listener)
        await loop.run_in_executor(None, far.connect, listener.getsockname())
        await over
        server.close()

    async def native_closed():
        await native(lambda core: core.close_descriptor())

    async def native_dropped():
        await native(lambda core: None)

    def left_to_the_loop_s_end():
        loop = loop_pool.new_event_loop()
        server, transport = loop.run_until_complete(accepted())
        del server, transport
        announce_closing()
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        gc.collect()

    def given_and_left_to_the_loop_s_end():
        loop = loop_pool.new_event_loop()
        _, protocol = loop.run_until_complete(loop.create_connection(Writes, sock=pair()))
        loop.run_until_complete(protocol.full)
        del _, protocol
        announce_closing()
        warnings.simplefilter("ignore", ResourceWarning)
        loop.close()
        gc.collect()

    kind = globals()[sys.argv[1]]
    if kind is pool:
        loop_pool.run(pool(), loops=1)
    elif inspect.iscoroutinefunction(kind):
        asyncio.run(kind(), loop_factory=loop_pool.new_event_loop)
    else:
        kind()
    assert counted.is_set(), "the close did not wait at all"
    counter.join()
    print("closed")
"""

KINDS = [
    "server",
    "given",
    "given_accepted",
    "subclass",
    "streams",
    "pipe",
    "sendfile",
    "tls",
    "pool",
    "native_closed",
    "native_dropped",
    "left_to_the_loop_s_end",
    "given_and_left_to_the_loop_s_end",
]


@pytest.mark.parametrize("kind", KINDS)
def test_while_a_close_waits_for_its_peer_other_loops_go_on(kind: str) -> None:
    assert check_script(LINGERING, kind) == "closed\n"
