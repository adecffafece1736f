"""The process of one server that `sockets.py` puts under load.

    python benches/python/servers.py KIND LOOP [--loops N] [--no-steal] [--stuck SECONDS]

It prints one line of JSON: its port, or the reason why it does not serve. From then on it answers
each line on standard input ("connections", "stuck") with a line of JSON, and ends when standard
input does. Nothing is measured in here but the times at which a loop was stuck.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from child import LOOPS, describe_error, load_factory
from workloads import LoopFactory

HOST = "127.0.0.1"
BACKLOG = 1024
READ_SIZE = 65536
STUCK_PERIOD = 0.1
"""Seconds from one block of a loop to the next."""
BULK_QUEUED = 64 * 1024 * 1024
"""Bytes that a bulk connection holds in its transport at least, while its loop is not stuck."""
BULK_PIECE = bytes(1024 * 1024)
BULK_SOCKET_BUFFER = 128 * 1024
"""What the kernel holds of a bulk connection flows on without the server; it is kept small."""

connections: set[asyncio.BaseTransport] = set()
stuck_times: list[tuple[int, int]] = []
"""Begin and end of each block, by `time.monotonic_ns`."""


class Echo(asyncio.Protocol):
    """Sends back what it gets."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class BufferedEcho(asyncio.BufferedProtocol):
    """Sends back what it gets in its own buffer."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        # The transport may keep what it is given, and the buffer is filled again.
        self._transport.write(bytes(self._view[:nbytes]))


class Idle(asyncio.Protocol):
    """Keeps its transport, and does nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        connections.discard(self._transport)


class Bulk(asyncio.Protocol):
    """Sends without an end, with much queued in the transport at any time."""

    _transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BULK_SOCKET_BUFFER)
        self._transport.set_write_buffer_limits(high=BULK_QUEUED, low=BULK_QUEUED - 1)
        self.resume_writing()

    def resume_writing(self) -> None:
        for _ in range(BULK_QUEUED // len(BULK_PIECE) + 1):
            self._transport.write(BULK_PIECE)


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, as asyncio's documentation does it."""
    try:
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


def block_regularly(seconds: float) -> None:
    """Block the running loop for `seconds` in a callback, every `STUCK_PERIOD`."""
    loop = asyncio.get_running_loop()

    def block() -> None:
        begin = time.monotonic_ns()
        time.sleep(seconds)
        end = time.monotonic_ns()
        stuck_times.append((begin, end))
        loop.call_later(max(0.0, STUCK_PERIOD - (end - begin) / 1e9), block)

    loop.call_later(STUCK_PERIOD, block)


def wait_stuck() -> None:
    """Block until some loop has been stuck once."""
    while not stuck_times:
        time.sleep(STUCK_PERIOD / 10)


def bind(*, reuse_port: bool = False, port: int = 0) -> socket.socket:
    """Return a socket bound to `port`; 0: a free one."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind((HOST, port))
    return sock


Listen = Callable[[socket.socket], Awaitable[Any]]
"""Makes the running loop serve on a bound socket. The server is kept by who awaits it."""


def listen_with(protocol: Callable[[], asyncio.BaseProtocol]) -> Listen:
    """As `loop.create_server`, on a socket."""

    async def listen(sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(protocol, sock=sock, backlog=BACKLOG)

    return listen


async def listen_with_streams(sock: socket.socket) -> asyncio.Server:
    """As `asyncio.start_server`, on a socket."""
    return await asyncio.start_server(echo_stream, sock=sock, backlog=BACKLOG)


ON_ONE_LOOP: dict[str, Listen] = {
    "protocol": listen_with(Echo),
    "buffered": listen_with(BufferedEcho),
    "streams": listen_with_streams,
    "idle": listen_with(Idle),
    "bulk": listen_with(Bulk),
}
"""Kinds of servers that listen on one loop. With several loops, it is the last one (`bulk`, whose
loop is the one that is stuck) or the first one (all others, which know nothing of the rest)."""
ON_EVERY_LOOP = ("pool", "pool-streams")
"""Kinds of servers that listen on every loop."""


@dataclass(frozen=True)
class Options:
    """The command line."""

    kind: str
    loop: str
    loops: int
    """How many in a pool, or in threads for a loop that knows no pool; 0: one loop, alone."""
    steal: bool
    stuck: float
    """Seconds for which the last loop is blocked, every `STUCK_PERIOD`; 0: it is not."""


def parse_options(arguments: list[str]) -> Options:
    """Read the command line; exits with code 2 and a message if it is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=[*ON_ONE_LOOP, *ON_EVERY_LOOP])
    parser.add_argument("loop", choices=list(LOOPS))
    parser.add_argument("--loops", type=int, default=0)
    parser.add_argument("--no-steal", dest="steal", action="store_false")
    parser.add_argument("--stuck", type=float, default=0.0)
    return Options(**vars(parser.parse_args(arguments)))


def answer(message: dict[str, Any]) -> None:
    """Tell the parent."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def serve_alone(options: Options, factory: LoopFactory) -> None:
    """Serve on one loop that knows of no others."""

    async def main() -> None:
        sock = bind()
        port = sock.getsockname()[1]
        server = await ON_ONE_LOOP[options.kind](sock)
        answer_on_loop()
        await serve_on(server, port)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def serve_in_pool(options: Options) -> None:
    """Serve in a pool of loop_pool."""
    import loop_pool

    async def main() -> None:
        loops = loop_pool.current_pool().loops
        if options.kind == "pool":
            server = await loop_pool.create_server(Echo, HOST, 0, backlog=BACKLOG)
            port = server.sockets[0].getsockname()[1]
        elif options.kind == "pool-streams":
            server = await loop_pool.start_server(echo_stream, HOST, 0, backlog=BACKLOG)
            port = server.sockets[0].getsockname()[1]
        else:
            sock = bind()
            port = sock.getsockname()[1]
            where = loops[-1] if options.kind == "bulk" else loops[0]
            listen = cast("Callable[..., Coroutine[Any, Any, Any]]", ON_ONE_LOOP[options.kind])
            server = await loop_pool.spawn(listen(sock), loop=where)
        if options.stuck:
            loops[-1].call_soon_threadsafe(block_regularly, options.stuck)
            # The connections come to a server of which one loop has been stuck before.
            await asyncio.to_thread(wait_stuck)
        await serve_on(server, port)

    # `steal` is named only where it is asked for: not every version knows it.
    steal = {} if options.steal else {"steal": False}
    loop_pool.run(main(), loops=options.loops, **steal)


def serve_in_threads(options: Options, factory: LoopFactory) -> None:
    """Serve as one does without a pool: threads with a loop each, which share a port."""
    kind = {"pool": "protocol", "pool-streams": "streams"}.get(options.kind, options.kind)
    shared = options.kind in ON_EVERY_LOOP
    first = bind(reuse_port=shared)
    port = first.getsockname()[1]
    if not shared:
        listening = [options.loops - 1 if kind == "bulk" else 0]
    else:
        listening = list(range(options.loops))

    def run(number: int, started: threading.Event) -> None:
        async def main() -> None:
            server = None
            if number in listening:
                sock = first if number == listening[0] else bind(reuse_port=True, port=port)
                server = await ON_ONE_LOOP[kind](sock)
            if options.stuck and number == options.loops - 1:
                block_regularly(options.stuck)
            started.set()
            await serve_on(server, None)

        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(main())
        except BaseException as error:
            answer({"error": describe_error(error)})
            os._exit(1)

    # One after another: python/cpython#157666.
    for number in range(options.loops):
        started = threading.Event()
        threading.Thread(target=run, args=(number, started), daemon=True).start()
        started.wait()
    if options.stuck:
        wait_stuck()
    announce(port)
    threading.Event().wait()


def announce(port: int) -> None:
    """Tell the parent where to connect."""
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    answer({"port": port, "version": version, "gil_enabled": gil_enabled})


async def serve_on(server: object, port: int | None) -> None:
    """Keep a server until the process ends."""
    if port is not None:
        announce(port)
    await asyncio.get_running_loop().create_future()
    del server


def answer_requests() -> NoReturn:
    """Answer the parent until it closes standard input, then end the process."""
    for line in sys.stdin:
        answer_request(line.strip())
    os._exit(0)


def answer_request(request: str) -> None:
    """Answer one line."""
    if request == "connections":
        answer({"connections": len(connections)})
    elif request == "stuck":
        answer({"stuck": list(stuck_times)})
    else:
        answer({"error": f"no such request: {request}"})


def answer_on_loop() -> None:
    """As `answer_requests`, from the running loop. Without a second thread, as a server on one loop
    has none: the kernel counts references to a file only where threads share it, which would cost
    each system call some per cent."""

    def read() -> None:
        lines = os.read(0, 65536).decode()
        if not lines:
            os._exit(0)
        for line in lines.splitlines():
            answer_request(line.strip())

    os.set_blocking(0, False)
    asyncio.get_running_loop().add_reader(0, read)


def main() -> None:
    """Serve until the parent closes standard input."""
    global version
    options = parse_options(sys.argv[1:])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        factory, version = load_factory(options.loop)
        if options.loops:
            threading.Thread(target=answer_requests, daemon=True).start()
        if not options.loops:
            if options.kind not in ON_ONE_LOOP:
                raise ValueError(f"{options.kind} needs --loops")
            serve_alone(options, factory)
        elif options.loop == "loop_pool":
            serve_in_pool(options)
        else:
            serve_in_threads(options, factory)
    except Exception as error:
        answer({"error": describe_error(error)})
        os._exit(1)


version = "unknown"
# Whatever a loop or its packages print must not come between the answers.
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")

if __name__ == "__main__":
    os.dup2(2, 1)
    main()
