"""Extending asyncio, rows E1 to E5: what CPython's documentation asks of a third-party loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..support import (
    HANG,
    LoopFactory,
    LoopThread,
    class_of,
    closed_socket,
    listen,
    run_script,
    run_turn,
    self_signed,
    shut_down,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PUBLIC = sorted(
    name
    for name, value in vars(asyncio.AbstractEventLoop).items()
    if not name.startswith("_") and callable(value)
)


@pytest.mark.smoke
def test_e1_a_custom_loop_class_runs_a_program(loop_factory: LoopFactory) -> None:
    async def main() -> tuple[asyncio.AbstractEventLoop, int]:
        await asyncio.sleep(0)
        return asyncio.get_running_loop(), await asyncio.sleep(0.001, 5)

    made: list[asyncio.AbstractEventLoop] = []

    def factory() -> asyncio.AbstractEventLoop:
        made.append(loop_factory())
        return made[0]

    assert asyncio.run(main(), loop_factory=factory) == (made[0], 5)
    assert made[0].is_closed()


def test_e1_the_class_can_be_extended_further(loop_factory: LoopFactory) -> None:
    base: Any = class_of(loop_factory)

    class CustomLoop(base):
        def __init__(self) -> None:
            super().__init__()
            self.tasks_made = 0

        def create_task(self, coro: Any, **kwargs: Any) -> Any:
            self.tasks_made += 1
            return super().create_task(coro, **kwargs)

    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        assert type(loop) is CustomLoop
        await asyncio.create_task(asyncio.sleep(0))
        return int(loop.tasks_made)

    assert asyncio.run(main(), loop_factory=CustomLoop) == 2


@pytest.mark.parametrize("name", PUBLIC)
def test_e2_every_method_has_asyncio_s_signature(loop: object, name: str) -> None:
    ours = inspect.signature(getattr(loop, name))
    theirs = inspect.signature(getattr(asyncio.SelectorEventLoop, name))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in list(theirs.parameters.values())[1:]
    ]


def test_e2_arguments_may_be_given_by_name(loop: Any) -> None:
    ran = []

    async def coroutine() -> None:
        ran.append("create_task")

    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")
        loop.call_soon(callback=lambda: ran.append("call_soon"))
        loop.call_soon_threadsafe(callback=lambda: ran.append("call_soon_threadsafe"))
        loop.call_later(delay=0, callback=lambda: ran.append("call_later"))
        loop.call_at(when=0, callback=lambda: ran.append("call_at"))
        loop.create_task(coro=coroutine())
        loop.add_reader(fd=near, callback=lambda: ran.append("reader"))
        loop.add_writer(fd=near, callback=lambda: ran.append("writer"))
        run_turn(loop)
        run_turn(loop)
        assert loop.remove_reader(fd=near)
        assert loop.remove_writer(fd=near)
    timed = {"call_later", "call_at"}
    assert (
        set(ran) == {"call_soon", "call_soon_threadsafe", "create_task", "reader", "writer"} | timed
    )


def test_e2_what_asyncio_implements_is_implemented(loop_factory: LoopFactory) -> None:
    def implemented(kind: type) -> set[str]:
        abstract = asyncio.AbstractEventLoop
        return {name for name in PUBLIC if getattr(kind, name) is not getattr(abstract, name)}

    assert implemented(class_of(loop_factory)) >= implemented(asyncio.SelectorEventLoop)


async def _a_coroutine_function() -> None:
    """Never called."""


BAD_CALLS: dict[str, Callable[[Any], object]] = {
    "call_at None": lambda loop: loop.call_at(None, print),
    "call_later None": lambda loop: loop.call_later(None, print),
    "call_later text": lambda loop: loop.call_later("1", print),
    "call_later nothing": lambda loop: loop.call_later(),
    "call_soon keyword": lambda loop: loop.call_soon(print, nonsense=1),
    "call_soon nothing": lambda loop: loop.call_soon(),
    "call_soon_threadsafe nothing": lambda loop: loop.call_soon_threadsafe(),
    "create_future argument": lambda loop: loop.create_future(1),
    "create_task keyword": lambda loop: loop.create_task(None, nonsense=1),
    "create_task None": lambda loop: loop.create_task(None),
    "run_until_complete number": lambda loop: loop.run_until_complete(1),
    "add_reader closed": lambda loop: loop.add_reader(closed_socket(), print),
    "add_reader negative": lambda loop: loop.add_reader(-1, print),
    "add_reader object": lambda loop: loop.add_reader(object(), print),
    "add_reader unknown": lambda loop: loop.add_reader(2**30, print),
    "add_writer object": lambda loop: loop.add_writer(object(), print),
    "remove_reader object": lambda loop: loop.remove_reader(object()),
    "remove_writer negative": lambda loop: loop.remove_writer(-1),
    "add_signal_handler coroutine": lambda loop: loop.add_signal_handler(10, _a_coroutine_function),
    "add_signal_handler number": lambda loop: loop.add_signal_handler(1000, print),
    "add_signal_handler text": lambda loop: loop.add_signal_handler("TERM", print),
    "add_signal_handler uncatchable": lambda loop: loop.add_signal_handler(9, print),
    "remove_signal_handler text": lambda loop: loop.remove_signal_handler("TERM"),
    "set_default_executor object": lambda loop: loop.set_default_executor(object()),
    "set_exception_handler number": lambda loop: loop.set_exception_handler(1),
    "set_task_factory number": lambda loop: loop.set_task_factory(1),
    "sock_recv without": lambda loop: loop.run_until_complete(loop.sock_recv()),
    "sock_connect no socket": lambda loop: loop.run_until_complete(
        loop.sock_connect(1, ("127.0.0.1", 1))
    ),
    "create_connection nothing": lambda loop: loop.run_until_complete(
        loop.create_connection(asyncio.Protocol)
    ),
    "create_connection both": lambda loop: loop.run_until_complete(
        loop.create_connection(asyncio.Protocol, "127.0.0.1", 1, sock=object())
    ),
    "create_server both": lambda loop: loop.run_until_complete(
        loop.create_server(asyncio.Protocol, "127.0.0.1", 1, sock=object())
    ),
    "create_server nothing": lambda loop: loop.run_until_complete(
        loop.create_server(asyncio.Protocol)
    ),
    "create_datagram_endpoint nothing": lambda loop: loop.run_until_complete(
        loop.create_datagram_endpoint(asyncio.DatagramProtocol)
    ),
    "subprocess_exec text": lambda loop: loop.run_until_complete(
        loop.subprocess_exec(asyncio.SubprocessProtocol, "true", universal_newlines=True)
    ),
    "subprocess_shell list": lambda loop: loop.run_until_complete(
        loop.subprocess_shell(asyncio.SubprocessProtocol, ["true"])
    ),
}

ARITY = ("nothing", "keyword", "argument", "without", "text", "closed", "create_task None")


@pytest.mark.parametrize("case", BAD_CALLS)
def test_e2_bad_arguments_fail_as_in_asyncio(loop: asyncio.AbstractEventLoop, case: str) -> None:
    oracle = asyncio.SelectorEventLoop()
    try:
        with pytest.raises(Exception) as expected:
            BAD_CALLS[case](oracle)
    finally:
        oracle.close()
    with pytest.raises(expected.type) as seen:
        BAD_CALLS[case](loop)
    assert seen.type is expected.type
    if not case.endswith(ARITY) and " at 0x" not in str(expected.value):
        assert str(seen.value) == str(expected.value)


@pytest.mark.smoke
def test_e3_the_loop_is_a_base_event_loop(loop: asyncio.AbstractEventLoop) -> None:
    assert isinstance(loop, asyncio.BaseEventLoop)
    assert isinstance(loop, asyncio.SelectorEventLoop)


@pytest.mark.parametrize(
    "name",
    [
        "create_connection",
        "create_server",
        "create_datagram_endpoint",
        "getaddrinfo",
        "run_until_complete",
        "sendfile",
        "shutdown_asyncgens",
        "shutdown_default_executor",
        "subprocess_exec",
        "call_exception_handler",
    ],
)
def test_e3_the_base_class_gives_its_methods(loop_factory: LoopFactory, name: str) -> None:
    assert getattr(class_of(loop_factory), name) is getattr(asyncio.BaseEventLoop, name)


def test_e3_the_base_class_s_services_work(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        assert await loop.run_in_executor(None, os.getpid) == os.getpid()
        found = await loop.getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 80)

    loop.run_until_complete(main())
    assert loop.slow_callback_duration == 0.1


PRIVATE = [
    "_add_callback",
    "_add_reader",
    "_add_writer",
    "_make_datagram_transport",
    "_make_read_pipe_transport",
    "_make_socket_transport",
    "_make_ssl_transport",
    "_make_subprocess_transport",
    "_make_write_pipe_transport",
    "_process_events",
    "_remove_reader",
    "_remove_writer",
    "_start_serving",
    "_write_to_self",
]


@pytest.mark.parametrize("name", PRIVATE)
def test_e4_what_the_base_class_only_declares_is_implemented(
    loop_factory: LoopFactory, name: str
) -> None:
    ours = getattr(class_of(loop_factory), name)
    declared = getattr(asyncio.BaseEventLoop, name, None)
    assert ours is not declared or "NotImplementedError" not in declared.__code__.co_names


def test_e4_create_connection_goes_through_make_socket_transport(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    calls = _record_calls(loop_factory, "_make_socket_transport", _connect)
    assert len(calls) == 1
    sock, protocol = calls[0][:2]
    assert isinstance(sock, socket.socket)
    assert isinstance(protocol, asyncio.Protocol)


def test_e4_tls_goes_through_make_ssl_transport(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    server, client = self_signed()

    async def main() -> None:
        listener = await asyncio.start_server(_hang_up, "127.0.0.1", 0, ssl=server)
        async with listener:
            address = listener.sockets[0].getsockname()
            _, writer = await asyncio.open_connection(
                *address, ssl=client, server_hostname="localhost"
            )
            await _close(writer)

    calls = _record_calls(loop_factory, "_make_ssl_transport", main)
    assert {call[2] for call in calls} == {server, client}


def test_e4_datagrams_go_through_make_datagram_transport(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got = asyncio.get_running_loop().create_future()
            self.lost = asyncio.get_running_loop().create_future()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.got.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(
            Receiver, local_addr=("127.0.0.1", 0)
        )
        transport.sendto(b"to myself", transport.get_extra_info("sockname"))
        assert await protocol.got == b"to myself"
        transport.close()
        assert await protocol.lost is None

    assert len(_record_calls(loop_factory, "_make_datagram_transport", main)) == 1


def test_e4_pipes_go_through_make_pipe_transport(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        far, near = os.pipe()
        reader = asyncio.StreamReader()
        source, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(far, "rb", 0)
        )
        sink, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(near, "wb", 0))
        sink.write(b"through")
        sink.close()
        assert await reader.read() == b"through"
        source.close()

    assert len(_record_calls(loop_factory, "_make_read_pipe_transport", main)) == 1
    assert len(_record_calls(loop_factory, "_make_write_pipe_transport", main)) == 1


def test_e4_processes_go_through_make_subprocess_transport(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "print('hi')", stdout=asyncio.subprocess.PIPE
        )
        assert (await process.communicate())[0] == b"hi\n"
        assert process.returncode == 0

    assert len(_record_calls(loop_factory, "_make_subprocess_transport", main)) == 1


def test_e4_servers_go_through_start_serving(
    loop_factory: LoopFactory, no_descriptor_leak: None
) -> None:
    assert len(_record_calls(loop_factory, "_start_serving", _connect_to_own_server)) == 1


def test_e4_write_to_self_wakes_a_parked_loop(loop: Any) -> None:
    ran = threading.Event()
    with LoopThread(loop) as thread:
        thread.wait_parked()
        loop._add_callback(asyncio.Handle(ran.set, (), loop))
        loop._write_to_self()
        assert ran.wait(HANG)


def test_e4_no_events_are_no_work(loop: Any) -> None:
    assert loop._process_events([]) is None


@pytest.mark.loop_pool_only
def test_e5_private_names_of_asyncio_stand_in_one_module(loop_factory: LoopFactory) -> None:
    import loop_pool

    users = {
        path.name: found
        for path in sorted(Path(loop_pool.__path__[0]).rglob("*.py"))
        if (found := _private_uses(ast.parse(path.read_text())))
    }
    assert len(users) <= 1, users


@pytest.mark.loop_pool_only
def test_e5_an_unsupported_python_is_named_clearly(loop_factory: LoopFactory) -> None:
    done = run_script(
        """
        import asyncio, collections, sys, warnings
        import concurrent.futures, signal, ssl, subprocess, threading, typing
        Version = collections.namedtuple("Version", "major minor micro releaselevel serial")
        sys.version_info = Version(3, 99, 0, "final", 0)
        import loop_pool
        """
    )
    assert done.returncode == 1, "a warning (an error here) or an ImportError"
    assert "3.99" in done.stderr.splitlines()[-1]


# Helpers


def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):  # The server may have hung up first.
        await writer.wait_closed()


async def _connect() -> None:
    with listen() as listener:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        await _close(writer)


async def _connect_to_own_server() -> None:
    async with await asyncio.start_server(_hang_up, "127.0.0.1", 0) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await _close(writer)


def _record_calls(
    factory: LoopFactory, method: str, main: Callable[[], Coroutine[Any, Any, None]]
) -> list[tuple[Any, ...]]:
    """Runs `main` on a loop whose private `method` is watched; returns the calls' arguments."""
    base = class_of(factory)
    calls: list[tuple[Any, ...]] = []

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return getattr(super(Watched, self), method)(*args, **kwargs)

    Watched: Any = type("Watched", (base,), {method: watched})
    loop = Watched()
    try:
        loop.run_until_complete(asyncio.wait_for(main(), HANG))
    finally:
        shut_down(loop)
    return calls


def _private_uses(tree: ast.Module) -> list[str]:
    """The underscored names that a module takes out of asyncio and that asyncio does not export."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("asyncio", "_asyncio")
        ):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("asyncio."):
            names = [node.attr]
        else:
            continue
        found += [
            name
            for name in names
            if name.startswith("_") and not name.startswith("__") and name not in asyncio.__all__
        ]
    return found
