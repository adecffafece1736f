"""A protocol of uvicorn's, played by a connection to a native server.

For tests that drive a protocol by hand. Behind it is a server on a thread of its own: what the test
feeds in is sent, and `transport.buffer` is what has come back once the server has nothing left to
do.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import loop_pool
from loop_pool import sync

from .server import HANG, NativeServer, NativeServing, plan_of, support
from .transport import Transport, unread_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLED_IN = 20.0
"""Seconds in which the application is called for a request that has arrived."""

QUIET = "a protocol's server"
"""The name of a thread whose server does not log its beginning and its end."""


def keep_quiet() -> None:
    """Let the servers of protocols log no more than a protocol does."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.threadName != QUIET or record.levelno > logging.INFO

    logging.getLogger("uvicorn.error").addFilter(is_wanted)


class _Call:
    """One call of the application."""

    def __init__(self, scope: Any) -> None:
        self.scope = scope
        self.may_begin = asyncio.Event()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _Application:
    """Calls the application; if it is held, only when `run_one` says so."""

    def __init__(self, app: Any, *, held: bool) -> None:
        self._app = app
        self._held = held
        self.calls: list[_Call] = []
        self._taken = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> Any:
        call = _Call(scope)
        self.calls.append(call)
        try:
            if self._held:
                await call.may_begin.wait()
            return await self._app(scope, receive, send)
        finally:
            call.ended.set_result(None)

    async def run_one(self) -> None:
        """Let the oldest call begin that has not, and wait for its end."""
        async with asyncio.timeout(CALLED_IN):
            while len(self.calls) <= self._taken:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        call = self.calls[self._taken]
        self._taken += 1
        call.may_begin.set()
        await asyncio.wait_for(call.ended, HANG)

    async def release(self) -> None:
        """Hold nobody any more."""
        self._held = False
        for call in self.calls:
            call.may_begin.set()

    async def ended(self) -> None:
        """Wait for the end of all calls."""
        for call in self.calls:
            await call.ended


class NativeProtocol:
    """A protocol of uvicorn's, played by a connection to a native server.

    Args:
        config: what the test has made.
        server_state: uvicorn's; its `tasks` become those of the application here.
        app_state: what a lifespan has left.
        _loop: the mock of a loop of a test that runs the application by hand, with `loop.run_one`.
    """

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self._is_held = _loop is not None
        self._listener = support.listen()
        self._plan = plan_of(config, lifespan="off")
        self._app_state = app_state
        self._thread = threading.Thread(target=self._serve)
        self._serving: NativeServing | None = None
        self._failure: BaseException | None = None
        self._application: _Application | None = None
        self.close_timeout = 10.0
        server_state.tasks = _Tasks(self)
        self.loop = _Loop(self)
        self.transport: Transport

    # The protocol, as uvicorn's tests call it.

    def connection_made(self, transport: Any) -> None:
        """Start the server, and connect to it. A `Transport` that is given is used."""
        self._thread.start()
        support.wait_for(lambda: self._is_ready or not self._thread.is_alive(), "it serves")
        if self._failure is not None:
            raise self._failure
        sock = socket.create_connection(self._listener.getsockname(), HANG)
        self.transport = transport if isinstance(transport, Transport) else Transport()
        self.transport.begin(sock, self)
        _open.append(self)
        self.settle()

    def data_received(self, data: bytes) -> None:
        """Send it, and let the server do what it can with it."""
        self.transport.send(data)
        self.settle()

    def eof_received(self) -> None:
        """Send nothing more."""
        self.transport.send_eof()
        self.settle()

    def connection_lost(self, _: Any) -> None:
        """End the connection."""
        self.transport.end()
        self.settle()

    def shutdown(self) -> None:
        """End the server's side, as at the end of the server."""
        assert self._serving is not None
        http = self._serving.http

        async def shut_down() -> None:
            for connection in http.connections:
                http.shut_down(connection)

        self._on_loop(shut_down())
        self.settle()

    @property
    def scope(self) -> Any:
        """Of the request that came last."""
        assert self._application is not None
        return self._application.calls[-1].scope

    @property
    def close_timer(self) -> object | None:
        """Not None while a WebSocket's server waits for the client's close."""
        is_closing = b"\x88" in self.transport.buffer.partition(b"\r\n\r\n")[2][:1]
        return self if is_closing and not self.transport.closed else None

    # Behind it.

    @property
    def is_open(self) -> bool:
        """Whether the server still reads from the connection."""
        assert self._serving is not None
        return bool(self._serving.http.connections)

    @property
    def _is_ready(self) -> bool:
        return self._serving is not None and self._serving.is_ready

    def settle(self) -> None:
        """Return when the server's loop has handled all that was sent, and sleeps."""
        for _ in range(2):
            self._on_loop(asyncio.sleep(0))
            self.transport.wait_until_acknowledged()
            support.wait_parked(self._thread.native_id)

    def unread(self) -> int:
        """Bytes that the server has not taken out of its socket."""
        assert self._serving is not None
        total = 0
        for connection in self._serving.http.connections:
            sock = connection.transport.get_extra_info("socket")
            total += unread_of(sock)
        return total

    def run_one(self) -> None:
        """Let the application answer one request."""
        assert self._application is not None
        self._on_loop(self._application.run_one())
        self.settle()

    async def application_ended(self) -> None:
        """Wait until the application has returned."""
        assert self._application is not None
        ended = asyncio.run_coroutine_threadsafe(self._application.ended(), self._server_loop)
        await asyncio.wrap_future(ended)
        self.settle()

    def close(self) -> None:
        """End connection and server."""
        self.transport.end()
        if self._serving is not None and self._application is not None:
            self._on_loop(self._application.release())
            self._serving.stop()
        self._thread.join(HANG)
        self._listener.close()
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _on_loop[T](self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._server_loop).result(HANG)

    def _serve(self) -> None:
        threading.current_thread().name = QUIET
        try:
            with loop_pool.Runner(loops=1) as runner:
                runner.run(self._run())
        except BaseException as error:
            self._failure = error

    async def _run(self) -> None:
        self._server_loop = asyncio.get_running_loop()
        serving = NativeServing(self._plan, self._listener)
        serving.around = self._around
        serving.state = self._app_state
        self._serving = serving
        await serving.run_of.run()
        if serving.run_of.failure is not None:
            raise serving.run_of.failure

    def _around(self, app: Any) -> Any:
        self._application = _Application(app, held=self._is_held)
        return self._application


class _Loop:
    """The face of the tests' mock of a loop."""

    def __init__(self, protocol: NativeProtocol) -> None:
        self._protocol = protocol

    async def run_one(self) -> None:
        """Let the application answer one request."""
        self._protocol.run_one()

    def run_later(self, with_delay: float) -> None:
        """Let the time pass, and a little more: the server's clock is not the test's."""
        time.sleep(with_delay * 1.1)


class _Tasks:
    """The tasks of the application, as far as one can wait for them."""

    def __init__(self, protocol: NativeProtocol) -> None:
        self._protocol = protocol

    def __iter__(self) -> Iterator[Any]:
        return iter([self._protocol.application_ended()])


_open: list[NativeProtocol] = []


def close_all() -> None:
    """End what a test has left."""
    while _open:
        _open.pop().close()


def replace_in(module: types.ModuleType | None) -> None:
    """Put ours into a module of tests: the server, the mock of a transport, and `asyncio.Event`.

    An event is set on the loop of the server and waited for on that of the test.
    """
    if module is None:
        return
    if hasattr(module, "Server"):
        module.Server = NativeServer  # type: ignore[attr-defined]
    if hasattr(module, "MockWriteTransport"):
        module.MockWriteTransport = Transport  # type: ignore[attr-defined]
        shared = types.ModuleType("asyncio")
        shared.__dict__.update(vars(asyncio))
        shared.Event = sync.Event  # type: ignore[attr-defined]
        module.asyncio = shared  # type: ignore[attr-defined]
