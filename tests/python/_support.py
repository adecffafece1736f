"""What the tests of the Python face share: limits, probes of the process, throw-away programs."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import socket
import ssl
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

type LoopFactory = Callable[[], asyncio.AbstractEventLoop]

HANG = 30.0
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


def run_script(
    source: str, *arguments: str, options: Iterable[str] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in an interpreter like this one, warnings being errors."""
    command = [sys.executable, "-W", "error", *_TAKING_TURNS, *options]
    return subprocess.run(
        [*command, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
        env={**os.environ, **(env or {})},
    )


def check_script(source: str, *arguments: str, **more: Any) -> str:
    """Runs a program that must end well and quietly; returns what it printed."""
    done = run_script(source, *arguments, **more)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def listen(**options: Any) -> socket.socket:
    """A socket that listens on a free loopback port."""
    return socket.create_server(("127.0.0.1", 0), **options)


def self_signed() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for a server named `localhost` and for a client that trusts it.

    The certificate is the self-signed one of CPython's own test package.
    """
    import test

    certificate = Path(test.__path__[0], "certdata", "keycert.pem")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    return server, ssl.create_default_context(cafile=certificate)
