"""What the tests of the Python face share: limits, probes of the process, throw-away programs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import socket
import ssl
import struct
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

type LoopFactory = Callable[[], asyncio.AbstractEventLoop]

HANG = 60.0
"""Seconds after which a wait is called a hang. Never a measure of speed."""

ORACLE_ONLY = os.environ.get("LOOP_POOL_TESTS_ORACLE_ONLY") == "1"
"""Run only what runs on asyncio's own loop: it shows that the tests themselves are right."""

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
"""Whether this interpreter was built without the GIL."""

_EPOLL_WAITS = {
    "x86_64": {"232", "281", "441"},
    "aarch64": {"22", "441"},
}.get(platform.machine(), set())


TAKING_TURNS = "this Python has a global interpreter lock"
"""How the warning begins that a pool gives on an interpreter with a GIL."""

_TAKING_TURNS = [] if FREE_THREADED else ["-W", f"ignore:{TAKING_TURNS}:RuntimeWarning"]


def gil_enabled() -> bool:
    """Whether Python code takes turns in this process now."""
    return sys._is_gil_enabled()


def open_descriptors() -> dict[int, str]:
    """The open descriptors of this process and what each of them is."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # The one that listed the folder.
    return descriptors


def assert_descriptors(before: dict[int, str]) -> None:
    """Asserts that the process has the descriptors it had before, no more and no fewer."""
    gc.collect()
    after = open_descriptors()
    opened = {fd: what for fd, what in after.items() if before.get(fd) != what}
    closed = {fd: what for fd, what in before.items() if after.get(fd) != what}
    assert not opened, f"left open: {opened}"
    assert not closed, f"closed though not ours: {closed}"


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Polls `condition` from this thread until it holds; a test fails if it never does."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {HANG} s"
        time.sleep(0.001)


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """As `wait_for`, in a task: the loop goes on meanwhile."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {HANG} s"
        await asyncio.sleep(0.001)


def wait_parked(native_thread_id: int) -> None:
    """Returns once that thread of this process sleeps in the kernel's poll (Linux)."""
    folder = Path(f"/proc/self/task/{native_thread_id}")

    def parked() -> bool:
        if _EPOLL_WAITS:
            try:
                return (folder / "syscall").read_text().split()[0] in _EPOLL_WAITS
            except PermissionError:
                pass
        return (folder / "stat").read_text().rpartition(")")[2].split()[0] == "S"

    wait_for(parked, f"thread {native_thread_id} parks")


def class_of(factory: LoopFactory) -> type:
    """The class of the loops that a factory makes."""
    if isinstance(factory, type):
        return factory
    loop = factory()
    loop.close()
    return type(loop)


def factory_path(factory: LoopFactory) -> str:
    """Where another process finds the factory of a test, as `module:name`."""
    if factory is asyncio.SelectorEventLoop:
        return "asyncio:SelectorEventLoop"
    return "loop_pool:new_event_loop"


def run_turn(loop: asyncio.AbstractEventLoop) -> None:
    """Runs the callbacks that are ready now, and no other."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def shut_down(loop: asyncio.AbstractEventLoop) -> None:
    """Ends a loop as `asyncio.Runner` does."""
    if loop.is_closed():
        return
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


class LoopThread:
    """A loop that runs in a thread of its own until the block ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "loop") -> None:
        self.loop = loop
        self.thread = threading.Thread(target=loop.run_forever, name=name)

    def __enter__(self) -> LoopThread:
        running = threading.Event()
        self.loop.call_soon(running.set)
        self.thread.start()
        assert running.wait(HANG)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(HANG)
        assert not self.thread.is_alive()

    @property
    def native_id(self) -> int:
        """The kernel's number of the thread."""
        assert self.thread.native_id is not None
        return self.thread.native_id

    def wait_parked(self) -> None:
        """Returns once the loop sleeps in its poll."""
        wait_parked(self.native_id)

    def run[T](self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(HANG)


class Threads:
    """Threads whose exceptions reach the test that started them."""

    def __init__(self, *targets: Callable[[], object]) -> None:
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in targets]

    def _run(self, target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as exc:
            self._failures.append(exc)

    def __enter__(self) -> Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for thread in self._threads:
            thread.join(HANG)
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        assert not stuck, f"threads that did not end: {stuck}"
        if kind is None and self._failures:
            raise self._failures[0]


def kill_when_parked(number: int) -> Threads:
    """Sends this process a signal once the thread that called this sleeps in a poll."""
    caller = threading.get_native_id()

    def kill() -> None:
        wait_parked(caller)
        os.kill(os.getpid(), number)

    return Threads(kill)


def in_thread[T](function: Callable[[], T]) -> T:
    """Calls `function` in a thread; returns what it returned or raises what it raised."""
    results: list[T] = []
    with Threads(lambda: results.append(function())):
        pass
    return results[0]


def run_python(
    *arguments: object, timeout: float = HANG, check: bool = False, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Runs an interpreter like this one to its end; `more` is for `subprocess.run`."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=check,
        **more,
    )


def run_script(
    source: str,
    *arguments: str,
    options: Iterable[str] = (),
    env: dict[str, str] | None = None,
    timeout: float = HANG,
) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter like this one, warnings being errors."""
    command = ["-W", "error", *_TAKING_TURNS, *options, "-c", textwrap.dedent(source)]
    return run_python(*command, *arguments, timeout=timeout, env={**os.environ, **(env or {})})


def check_script(source: str, *arguments: str, **more: Any) -> str:
    """Runs a program that must end well and quietly; returns what it printed."""
    done = run_script(source, *arguments, **more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def listen(**options: Any) -> socket.socket:
    """A socket that listens on a free loopback port."""
    return socket.create_server(("127.0.0.1", 0), **options)


contexts: Any = ssl
"""What has the class of TLS contexts that tests use: `ssl` or `loop_pool.tls`."""


def certificate(name: str) -> Path:
    """A file of CPython's own test package, with certificates."""
    import test

    return Path(test.__path__[0], "certdata", name)


def self_signed() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for a server named `localhost` and for a client that trusts it."""
    path = certificate("keycert.pem")
    server: ssl.SSLContext = contexts.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    client: ssl.SSLContext = contexts.create_default_context(cafile=path)
    return server, client


# Transports


def run_main[T](loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Runs a test's coroutine; a hang is a failure."""
    return loop.run_until_complete(asyncio.wait_for(main, HANG))


async def turns(count: int = 10) -> None:
    """Lets the running loop make some turns: what is already on its way arrives, nothing else."""
    for _ in range(count):
        await asyncio.sleep(0)


def stream_sockets(kind: str) -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets, blocking with a deadline: `tcp`, `tcp6` or `unix`."""
    if kind == "unix":
        near, far = socket.socketpair()
    else:
        family, host = (socket.AF_INET6, "::1") if kind == "tcp6" else (socket.AF_INET, "127.0.0.1")
        with socket.create_server((host, 0), family=family) as listener:
            near = socket.create_connection(listener.getsockname()[:2], HANG)
            far, _ = listener.accept()
    for sock in (near, far):
        sock.settimeout(HANG)
    return near, far


def reset(sock: socket.socket) -> None:
    """Closes a TCP socket so that its peer gets a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def receive(sock: socket.socket, count: int | None = None) -> bytes:
    """Blocks until `count` bytes have come, or with None until the end."""
    data = bytearray()
    while count is None or len(data) < count:
        chunk = sock.recv(65536 if count is None else min(65536, count - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def read_out(sock: socket.socket) -> bytes:
    """Blocks until the end, be it a reset: the peer closed with something left unread."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := sock.recv(65536):
            data += chunk
    return bytes(data)


def closed_socket() -> socket.socket:
    """A socket that is closed."""
    sock = socket.socket()
    sock.close()
    return sock


def drain(sock: socket.socket) -> None:
    """Receives all that a non-blocking socket has now."""
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1 << 20):
            pass


def asleep_or_ended(thread: threading.Thread) -> bool:
    """Whether a thread of this process sleeps in the kernel, or is no more (Linux)."""
    try:
        status = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
    except FileNotFoundError, ProcessLookupError:
        return True
    return status.rpartition(")")[2].split()[0] == "S"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back all that comes, up to its end."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


class _Recording:
    """Keeps a protocol's calls in order. `hooks`: what to do in a call, by the method's name."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.hooks = hooks
        self.calls: list[str] = []
        self.data = bytearray()
        self.error: BaseException | None = None
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self._threads: set[int] = set()

    def _called(self, name: str, *args: Any) -> Any:
        self.calls.append(name)
        self._threads.add(threading.get_ident())
        hook = self.hooks.get(name)
        return None if hook is None else hook(*args)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._called("connection_made", transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        if not self.lost.done():
            self.lost.set_result(exc)
        self._called("connection_lost", exc)

    def pause_writing(self) -> None:
        self._called("pause_writing")

    def resume_writing(self) -> None:
        self._called("resume_writing")

    def eof_received(self) -> Any:
        return self._called("eof_received")

    def count(self, name: str) -> int:
        """How often a method was called."""
        return self.calls.count(name)

    async def got(self, count: int) -> None:
        """Returns once that many bytes have come in all."""
        await eventually(lambda: len(self.data) >= count, f"{count} bytes")

    async def ended(self) -> BaseException | None:
        """Waits for the end; it came once, last, and every call on this thread.

        Returns:
            What `connection_lost` was called with.
        """
        await asyncio.wait_for(asyncio.shield(self.lost), HANG)
        await turns()
        assert self.count("connection_lost") == 1, self.calls
        assert self.calls[-1] == "connection_lost", self.calls
        if self.transport is not None:
            assert self.calls[0] == "connection_made", self.calls
            assert self.count("connection_made") == 1, self.calls
        assert self._threads == {threading.get_ident()}
        return self.error


class Recorder(_Recording, asyncio.Protocol):
    """A protocol that keeps its calls in order."""

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._called("data_received", data)


class BufferedRecorder(_Recording, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def __init__(self, size: int = 1000, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.buffer = bytearray(size)

    def get_buffer(self, sizehint: int) -> Any:
        buffer = self._called("get_buffer", sizehint)
        return self.buffer if buffer is None else buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self._called("buffer_updated", nbytes)


@contextlib.asynccontextmanager
async def connected[P: (Recorder, BufferedRecorder)](
    protocol: P, kind: str = "tcp"
) -> AsyncIterator[tuple[Any, P, socket.socket]]:
    """A transport of the running loop, its protocol, and the blocking socket at the far end.

    At the end the transport is aborted if it is still open, and the order of the calls checked.
    """
    near, far = stream_sockets(kind)
    with far:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: protocol, sock=near
        )
        try:
            yield transport, protocol, far
        finally:
            transport.abort()
            await protocol.ended()


def stuff(transport: Any) -> bytes:
    """Writes until some of it has to wait; returns what was written."""
    written = bytearray()
    while not transport.get_write_buffer_size():
        chunk = os.urandom(64) * 1024
        transport.write(chunk)
        written += chunk
    return bytes(written)
