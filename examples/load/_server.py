"""The server under load: on the loops of a pool, or on threads with a loop each.

It runs in threads of its own; whoever conducts the test stays in the main thread.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

sys.path.append(str(Path(__file__).parents[1]))

from load_test_client import HEADER, MAX_SIZE

HOST = "127.0.0.1"
BACKLOG = 4096
END_SECONDS = 10.0
"""A server that does not end within this time after the load is a failure."""

type Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every request back, until the client ends the connection."""
    while True:
        header = await reader.readexactly(HEADER.size)
        size = HEADER.unpack(header)[0]
        if size > MAX_SIZE:
            raise ValueError(f"a request of {size} bytes")
        writer.write(header + await reader.readexactly(size))
        await writer.drain()


@dataclass
class LoopCounts:
    """What a loop has served; written only by that loop's thread."""

    accepted: int = 0
    ended: int = 0


class Server:
    """Serves within a `with` block; `ports` has one port for each handler.

    The block raises what keeps the server from starting. `errors` are those of handlers and loops.
    """

    def __init__(self, peer: str, loops: int, handlers: Sequence[Handler]) -> None:
        """Prepare: `peer` is `loop_pool`, or the loop of the threads (`asyncio`, `uvloop`)."""
        self.ports: list[int] = []
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.counts: dict[asyncio.AbstractEventLoop, LoopCounts] = {}
        self.errors: list[str] = []
        self._peer = peer
        self._count = loops
        self._handlers = handlers
        self._threads: list[threading.Thread] = []
        self._stops: list[Callable[[], object]] = []
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        runs = [self._run_pool] if self._peer == "loop_pool" else [self._run_loop] * self._count
        for number, run in enumerate(runs):
            ready = threading.Event()
            name = f"server-{number}"
            thread = threading.Thread(target=self._guard, args=(run, ready), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
            ready.wait()
            if self._failure is not None:
                self.__exit__()
                raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        for stop in self._stops:
            # A loop that has ended needs no stop.
            with suppress(RuntimeError):
                stop()
        deadline = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.errors.append(f"{thread.name} did not end within {END_SECONDS:g} s")

    @property
    def open(self) -> int:
        """Connections whose handlers have not ended."""
        return sum(counts.accepted - counts.ended for counts in self.counts.values())

    def lags(self, limit: float = END_SECONDS) -> list[float]:
        """Measure how long each loop takes to run a callback of another thread, in seconds.

        A loop that does not within `limit` seconds shows that limit.
        """
        begin = time.monotonic()
        times = [limit] * len(self.loops)
        done = [threading.Event() for _ in self.loops]

        def arrive(number: int) -> None:
            times[number] = time.monotonic() - begin
            done[number].set()

        for number, loop in enumerate(self.loops):
            loop.call_soon_threadsafe(arrive, number)
        for event in done:
            event.wait(max(0.0, begin + limit - time.monotonic()))
        return list(times)

    def _guard(self, run: Callable[[threading.Event], None], ready: threading.Event) -> None:
        try:
            run(ready)
        except BaseException as error:
            if ready.is_set():
                self.errors.append(f"the server ended: {type(error).__name__}: {error}")
            else:
                self._failure = error
        finally:
            ready.set()

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loops.append(loop)
        self.counts[loop] = LoopCounts()
        loop.set_exception_handler(self._note_error)

    def _note_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {error!r}" if error else context["message"])

    def _counted(self, handler: Handler) -> Handler:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            counts = self.counts[asyncio.get_running_loop()]
            counts.accepted += 1
            try:
                await handler(reader, writer)
            except asyncio.IncompleteReadError, ConnectionError:
                pass  # a client that has gone; those that have not say what they miss
            finally:
                counts.ended += 1
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

        return serve

    def _run_pool(self, ready: threading.Event) -> None:
        import loop_pool

        async def main() -> None:
            for loop in loop_pool.current_pool().loops:
                self._adopt(loop)
            servers = [
                await loop_pool.start_server(self._counted(handler), HOST, 0, backlog=BACKLOG)
                for handler in self._handlers
            ]
            self.ports = [server.sockets[0].getsockname()[1] for server in servers]
            await self._serve(ready)
            for server in servers:
                server.close()

        loop_pool.run(main(), loops=self._count, shutdown_timeout=END_SECONDS)

    def _run_loop(self, ready: threading.Event) -> None:
        async def main() -> None:
            self._adopt(asyncio.get_running_loop())
            first = not self.ports
            servers = []
            for number, handler in enumerate(self._handlers):
                sock = bind_shared(0 if first else self.ports[number])
                if first:
                    self.ports.append(sock.getsockname()[1])
                serve = self._counted(handler)
                servers.append(await asyncio.start_server(serve, sock=sock, backlog=BACKLOG))
            await self._serve(ready)
            for server in servers:
                server.close()

        with asyncio.Runner(loop_factory=find_factory(self._peer)) as runner:
            runner.run(main())

    async def _serve(self, ready: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set()
        await stop.wait()


def bind_shared(port: int) -> socket.socket:
    """Give a socket that shares its port (0: a free one) with others of this process."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setblocking(False)
    sock.bind((HOST, port))
    return sock


def find_factory(peer: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Give what makes the loops of the threads; raises `ImportError` if it is not installed."""
    if peer == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.SelectorEventLoop
