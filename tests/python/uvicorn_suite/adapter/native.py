"""`http="native"` with the faces of uvicorn's server and of uvicorn's protocols.

`NativeServer` is for tests that run a `uvicorn.Server`: it serves on the loop that it is run on.
`NativeProtocol` is for tests that drive a protocol by hand. Behind it is a server on a thread of
its own, and a connection to it: what the test feeds in is sent, and `transport.buffer` is what has
come back once the server has nothing left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib.util
import logging
import socket
import struct
import termios
import threading
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

import loop_pool
from loop_pool import sync
from loop_pool._serve.health import Paths
from loop_pool._serve.native_http import NativeHTTP
from loop_pool._serve.plan import HTTPOptions, Plan
from loop_pool._serve.run import Serving
from loop_pool._serve.sockets import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _support() -> Any:
    """`tests/python/support.py`, whose package has the name that uvicorn's tests have, too."""
    path = Path(__file__).resolve().parents[2] / "support.py"
    spec = importlib.util.spec_from_file_location("loop_pool_tests_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = _support()
HANG: float = support.HANG

SIOCOUTQ = 0x5411
"""Asks how many bytes the peer has not acknowledged (Linux)."""

CALLED_IN = 20.0
"""Seconds in which the application is called for a request that has arrived."""

KEEP_ALIVE = 0.5
"""Seconds that stand for uvicorn's 5: nothing else in these tests waits for the time to pass."""

QUIET = "a protocol's server"
"""The name of a thread whose server does not log its beginning and its end."""

OURS = {"app", "host", "port", "uds", "fd", "http", "loop", "workers"}
"""Options of `uvicorn.Config` that are none of `loop_pool.serve`, or not passed on as they are."""


class _Made:
    """How many servers were made."""

    count = 0


made = _Made()


def record_configurations() -> None:
    """Let each `uvicorn.Config` remember what it was made of."""
    init = uvicorn.Config.__init__

    @functools.wraps(init)
    def remembering(self: Any, app: Any, *args: Any, **options: Any) -> None:
        assert not args, "given by position"
        init(self, app, **options)
        self.given = {"app": app, **options}

    uvicorn.Config.__init__ = remembering  # type: ignore[method-assign, assignment]


def keep_quiet() -> None:
    """Let the servers of protocols log no more than a protocol does."""

    def is_wanted(record: logging.LogRecord) -> bool:
        return record.threadName != QUIET or record.levelno > logging.INFO

    logging.getLogger("uvicorn.error").addFilter(is_wanted)


def _plan_of(config: Any, **more: Any) -> Plan:
    """What `loop_pool.serve` makes of the same options."""
    given = config.given
    options = {name: value for name, value in given.items() if name not in OURS}
    # The test's own configuration has set the logging up, and `caplog` after it.
    options["log_config"] = None
    place = Place(
        given.get("host", "127.0.0.1"),
        given.get("port", 8000),
        given.get("uds"),
        given.get("fd"),
        False,
    )
    http = HTTPOptions("native")
    return Plan(given["app"], False, place, None, Paths(), http, 0.0, 0.0, 10.0, options | more)


class _Serving:
    """A run of `loop_pool.serve` that shows what it has made."""

    def __init__(self, plan: Plan, given: socket.socket | None = None) -> None:
        self.run_of = Serving(plan, given)
        self.http: Any = None
        self._make_http = self.run_of._make_http
        self.run_of._make_http = self._made_http  # type: ignore[method-assign]
        self.around: Callable[[Any], Any] = lambda app: app
        """Goes around the application, before all that is the server's."""
        self.state: dict[str, Any] | None = None
        """In place of what a lifespan has left."""
        made.count += 1

    @property
    def is_ready(self) -> bool:
        """Whether it serves, and has not begun to end."""
        return self.run_of._health.ready

    def stop(self) -> None:
        """Begin its end."""
        self.run_of._uvicorn.should_exit = True

    def _made_http(self, config: Any) -> Any:
        config.loaded_app = self.around(config.loaded_app)
        self.http = http = self._make_http(config)
        assert isinstance(http, NativeHTTP), "not native"
        if self.state is not None:
            state = self.state
            start = http.start
            http.start = lambda _: start(state)  # type: ignore[method-assign]
        return http


class NativeServer:
    """As `uvicorn.Server`, on the running loop, which has to be one of a pool."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._serving: _Serving | None = None
        self._running: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end, whoever begins that."""
        (given,) = sockets or (None,)
        self._running = asyncio.current_task()
        self._serving = _Serving(_plan_of(self.config), given)
        await self._serving.run_of.run()
        if self._serving.run_of.failure is not None:
            raise self._serving.run_of.failure

    @property
    def started(self) -> bool:
        """Whether it serves, or has served."""
        if self._running is not None and self._running.done():
            self._running.result()  # which says why it does not serve
        return self._serving is not None and (
            self._serving.is_ready or self._serving.run_of._signalled.is_set()
        )

    @property
    def servers(self) -> list[Any]:
        """What listens: one, with the sockets."""
        return [self._serving.server] if self._serving else []

    @property
    def should_exit(self) -> bool:
        """Whether it ends."""
        return self._serving is not None and self._serving.run_of._uvicorn.should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        assert self._serving is not None
        self._serving.run_of._uvicorn.should_exit = value

    async def shutdown(self) -> None:
        """End, and wait for the end."""
        assert self._serving is not None
        assert self._running is not None
        self._serving.stop()
        await asyncio.wait([self._running], timeout=HANG)


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
        # A test that asks for another one has its own reasons.
        more = {} if "timeout_keep_alive" in config.given else {"timeout_keep_alive": KEEP_ALIVE}
        self._plan = _plan_of(config, lifespan="off", **more)
        self._app_state = app_state
        self._thread = threading.Thread(target=self._serve)
        self._serving: _Serving | None = None
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
            total += _ioctl(sock.fileno(), termios.FIONREAD)
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
        serving = _Serving(self._plan, self._listener)
        serving.around = self._around
        serving.state = self._app_state
        self._serving = serving
        await serving.run_of.run()
        if serving.run_of.failure is not None:
            raise serving.run_of.failure

    def _around(self, app: Any) -> Any:
        self._application = _Application(app, held=self._is_held)
        return self._application


class Transport:
    """The client's end, with the face of the tests' mocks of transports."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._closed = False
        self._has_sent_close = False
        self._sock: socket.socket | None = None

    def begin(self, sock: socket.socket, protocol: NativeProtocol) -> None:
        """Be a connection."""
        sock.setblocking(False)
        self._sock = sock
        self._protocol = protocol

    def send(self, data: bytes) -> None:
        """Send, and read meanwhile. What a closed connection does not take is lost."""
        # A masked frame with a code, which is what the tests' client sends.
        self._has_sent_close |= b"\x88\x82" in data
        deadline = time.monotonic() + HANG
        while data and self._sock is not None and time.monotonic() < deadline:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                # The server may have stopped to read, which is not for us to judge.
                self._read()
                if self._protocol.unread():
                    return
            except OSError:
                return

    def send_eof(self) -> None:
        """Send nothing more."""
        assert self._sock is not None
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Close it."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def wait_until_acknowledged(self) -> None:
        """Return when all has arrived, or the server has stopped to read."""
        support.wait_for(
            lambda: (
                self._sock is None
                or _ioctl(self._sock.fileno(), SIOCOUTQ) == 0
                or self._protocol.unread() > 0
            ),
            "what was sent arrives",
        )

    @property
    def buffer(self) -> bytes:
        """What the server has sent."""
        self._protocol.settle()
        self._read()
        return bytes(self._data)

    def clear_buffer(self) -> None:
        """Forget what has come."""
        assert self.buffer is not None
        self._data.clear()

    @property
    def closed(self) -> bool:
        """Whether the server has ended the connection.

        A WebSocket's server says at once that nothing comes behind its close, and reads on.
        """
        is_websocket = self.buffer.startswith(b"HTTP/1.1 101 ")
        if is_websocket and self._closed and self._has_sent_close:
            # Now it is the client's turn, and the server's end comes with it (RFC 6455, 7.1.1).
            self.send_eof()
            self._protocol.settle()
        return self._closed and not (is_websocket and self._protocol.is_open)

    def is_closing(self) -> bool:
        """The same."""
        return self.closed

    @property
    def reading_paused(self) -> bool:
        """Whether the server leaves what was sent in its socket."""
        self._protocol.settle()
        return self._protocol.unread() > 0

    @property
    def read_paused(self) -> bool:
        """The same."""
        return self.reading_paused

    def _read(self) -> None:
        while self._sock is not None and not self._closed:
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data = b""
            self._data += data
            self._closed = not data


class _Loop:
    """The face of the tests' mock of a loop."""

    def __init__(self, protocol: NativeProtocol) -> None:
        self._protocol = protocol

    async def run_one(self) -> None:
        """Let the application answer one request."""
        self._protocol.run_one()

    def run_later(self, with_delay: float) -> None:
        """Let the time pass that stands for it."""
        time.sleep(with_delay * KEEP_ALIVE / 5 * 1.1)


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


def _ioctl(fd: int, request: int) -> int:
    answer = fcntl.ioctl(fd, request, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
