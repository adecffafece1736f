"""A TCP proxy on all loops: bytes both ways, half-closed connections, back-pressure.

    python examples/proxy.py [--loops N] [--connections N] [--size MIB]     try it, and end
    python examples/proxy.py --target HOST:PORT [--port N] [--loops N]      serve until Ctrl-C

Without `--target` it puts an echo server behind itself and clients before it. Each client sends
its bytes, says that it has no more to send, and only then begins to read: the echo server stops
reading when nobody reads from it, so the proxy has to stop, too, and hold no more than its buffers.
Once it reads, every byte must come back, and then the end. It needs no other package.

The exit code is 0 if all was right, 1 if not, 2 if an option is wrong or the port is taken,
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import sys
import threading
import time
from collections import Counter

from load_test_client import bounded_int

import loop_pool

CHUNK = 64 * 1024
"""The most that is read at a time, in bytes."""
MOST_HELD = CHUNK + 64 * 1024
"""One read above the high-water mark of asyncio's transports, in bytes."""
MIB = 1 << 20
CONNECT_SECONDS = 10


def here() -> int:
    """Return the number of the running loop in its pool."""
    return loop_pool.current_pool().loops.index(asyncio.get_running_loop())


class Proxy:
    """Passes on what it gets to a target. Used by all loops at the same time."""

    def __init__(self, host: str, port: int) -> None:
        """Pass on to this address."""
        self.host = host
        self.port = port
        self.connections: Counter[int] = Counter()
        self.passed: Counter[int] = Counter()
        self.most_held = 0
        self._lock = threading.Lock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on both ways, on the loop that the connection was placed on, until both end."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        except OSError as error:
            print(f"{self.host} port {self.port}: {error}", file=sys.stderr)
            writer.transport.abort()
            return
        with self._lock:
            self.connections[here()] += 1
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.pass_on(reader, far_writer))
                both.create_task(self.pass_on(far_reader, writer))
        except* OSError:
            for broken in (writer, far_writer):  # one side has gone: let the other know
                broken.transport.abort()
        finally:
            for each in (writer, far_writer):
                each.close()
            for each in (writer, far_writer):
                with contextlib.suppress(OSError):  # as above
                    await each.wait_closed()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copy one way to the end, reading no faster than the other side takes it."""
        passed = held = 0
        while data := await reader.read(CHUNK):
            writer.write(data)
            passed += len(data)
            held = max(held, writer.transport.get_write_buffer_size())
            await writer.drain()  # waits while too much is held
        writer.write_eof()
        with self._lock:
            self.passed[here()] += passed
            self.most_held = max(self.most_held, held)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, and then the end."""
    with contextlib.suppress(ConnectionError):  # the other side has gone
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Sender:
    """Sends random bytes and the end."""

    def __init__(self, writer: asyncio.StreamWriter, size: int) -> None:
        """Prepare to send `size` bytes."""
        self.writer = writer
        self.left = size
        self.digest = hashlib.sha256()

    async def send(self) -> None:
        """Send as fast as they are taken."""
        block = os.urandom(CHUNK)
        while self.left:
            self.writer.write(block)
            self.digest.update(block)
            await self.writer.drain()
            self.left -= CHUNK
        self.writer.write_eof()

    async def stall(self) -> int:
        """Wait until nothing moves any more; return how many bytes are left."""
        before = -1
        while self.left and self.left != before:
            before = self.left
            await asyncio.sleep(0.1)
        return self.left


async def try_one(port: int, size: int) -> tuple[bool, int]:
    """Send `size` bytes and the end; return whether they came back, and how many were held back.

    Held back were those that waited here when nobody read and nothing moved any more.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK)
    try:
        async with asyncio.TaskGroup() as group:
            sender = Sender(writer, size)
            group.create_task(sender.send())
            held_back = await sender.stall()
            received = hashlib.sha256()
            while data := await reader.read(CHUNK):
                received.update(data)
        return received.digest() == sender.digest.digest(), held_back
    finally:
        writer.transport.abort()  # all has come, or it was cancelled


async def try_it(connections: int, size: int) -> int:
    """Run target, proxy and clients on the pool; return the exit code."""
    async with await loop_pool.start_server(echo, "127.0.0.1", 0) as target:
        proxy = Proxy("127.0.0.1", target.sockets[0].getsockname()[1])
        async with await loop_pool.start_server(proxy.serve, "127.0.0.1", 0, limit=CHUNK) as server:
            port = server.sockets[0].getsockname()[1]
            begin = time.perf_counter()
            async with loop_pool.TaskGroup() as group:
                clients = [group.create_task(try_one(port, size)) for _ in range(connections)]
            seconds = time.perf_counter() - begin
    for loop in range(len(loop_pool.current_pool().loops)):
        passed = proxy.passed[loop] / MIB
        print(f"loop {loop}: {proxy.connections[loop]} connections, {passed:.0f} MiB passed on")
    rate = proxy.passed.total() / MIB / seconds
    print(f"{rate:.0f} MiB/s through the proxy; it held {proxy.most_held / MIB:.2f} MiB at most")
    results = [client.result() for client in clients]
    print(f"held back at the clients: {min(held for _, held in results) / MIB:.1f} MiB at least")
    right = sum(right for right, _ in results)
    print(f"{right} of {connections} connections got back every byte, and then the end")
    if proxy.most_held > MOST_HELD:
        print("FAILED: the proxy did not stop reading", file=sys.stderr)
    return 0 if right == connections and proxy.most_held <= MOST_HELD else 1


class CannotListen(Exception):
    """The address cannot be listened on; the text says why."""


async def serve(host: str, target_port: int, port: int) -> int:
    """Serve until cancelled."""
    proxy = Proxy(host, target_port)
    try:
        server = await loop_pool.start_server(proxy.serve, "127.0.0.1", port, limit=CHUNK)
    except OSError as error:
        raise CannotListen(f"cannot listen on 127.0.0.1 port {port}: {error.strerror}") from error
    async with server:
        port = server.sockets[0].getsockname()[1]
        print(f"127.0.0.1 port {port} -> {host} port {target_port}", flush=True)
        await server.serve_forever()
    return 0


def address(text: str) -> tuple[str, int]:
    """Parse HOST:PORT."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), bounded_int(1, 65535)(port)


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--loops", type=bounded_int(1, 256), help="default: one for each core")
    parser.add_argument("--target", type=address, help="HOST:PORT; default: an echo server here")
    parser.add_argument(
        "--port", type=bounded_int(0, 65535), default=0, help="to serve on; default: any"
    )
    parser.add_argument(
        "--connections", type=bounded_int(1, 1_000), default=8, help="default: %(default)s"
    )
    parser.add_argument(
        "--size",
        type=bounded_int(1, 1_000),
        default=32,
        help="MiB for each connection; default: %(default)s",
    )
    options = parser.parse_args()
    if options.target is None:
        work = try_it(options.connections, options.size * MIB)
    else:
        host, target_port = options.target
        work = serve(host, target_port, options.port)
    try:
        return loop_pool.run(work, loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except CannotListen as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
