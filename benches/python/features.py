"""What asyncio promises of a loop, tried on each peer: the cells of `docs/comparison.md`.

    .venv-bench/bin/python benches/python/features.py [--peers a,b] [--only a,b]

Each function of `FEATURES` is tried on each loop, in a process of its own that is ended after
`TRY_SECONDS`. It returns when the loop did what asyncio's documentation says, and fails otherwise.
Nothing is measured here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import contextvars
import gc
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from child import LOOPS, describe_error, load_factory
from options import names
from sampling import LoopFactory
from under_load import make_certificate, work_folder

TRY_SECONDS = 8.0
HOST = "127.0.0.1"
MESSAGE = b"a message"
REASON_LENGTH = 100


class Echo(asyncio.Protocol):
    """Sends back what it gets, and keeps the value of `variable` at that time."""

    value: object = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        Echo.value = variable.get()
        self.transport.write(data)


class EchoDatagram(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


variable: contextvars.ContextVar[object] = contextvars.ContextVar("variable", default=None)


def bound() -> socket.socket:
    """A socket with a port, which does not listen yet."""
    sock = socket.socket()
    sock.bind((HOST, 0))
    sock.setblocking(False)
    return sock


async def ask(sock: socket.socket) -> None:
    """Send a message to a server from a thread, and wait for it to come back."""

    def talk() -> bytes:
        with sock:
            sock.settimeout(TRY_SECONDS / 2)
            sock.sendall(MESSAGE)
            return sock.recv(len(MESSAGE))

    assert await asyncio.to_thread(talk) == MESSAGE, "what came back is not what was sent"


async def ask_port(port: int) -> None:
    """As `ask`, over TCP."""
    await ask(await asyncio.to_thread(socket.create_connection, (HOST, port), TRY_SECONDS / 2))


async def serve(**options: Any) -> Any:
    """A server on a free port."""
    return await asyncio.get_running_loop().create_server(Echo, HOST, 0, **options)


# --- features -------------------------------------------------------------------------------------


async def tcp_server() -> None:
    """`create_server` and a connection"""
    server = await serve()
    await ask_port(server.sockets[0].getsockname()[1])


async def server_of_a_socket() -> None:
    """`create_server(sock=)` of a bound socket"""
    sock = bound()
    port = sock.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(Echo, sock=sock)
    await ask_port(port)
    del server


async def accepted_socket() -> None:
    """`connect_accepted_socket`"""
    near, far = socket.socketpair()
    near.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(Echo, near)
    await ask(far)


async def tls() -> None:
    """a server with TLS"""
    folder = work_folder()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server = await serve(ssl=context)
    port = server.sockets[0].getsockname()[1]
    ours = ssl.create_default_context(cafile=str(folder / "cert.pem"))

    def connect() -> socket.socket:
        plain = socket.create_connection((HOST, port), TRY_SECONDS / 2)
        return ours.wrap_socket(plain, server_hostname=HOST)

    await ask(await asyncio.to_thread(connect))


async def unix_server() -> None:
    """`create_unix_server`"""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "socket"))
        server = await asyncio.get_running_loop().create_unix_server(Echo, path)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        await ask(sock)
        del server


async def datagrams() -> None:
    """UDP: `create_datagram_endpoint`"""
    endpoint = asyncio.get_running_loop().create_datagram_endpoint
    transport, _ = await endpoint(EchoDatagram, local_addr=(HOST, 0))
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(transport.get_extra_info("sockname"))
    await ask(sock)


async def unix_datagrams() -> None:
    """unix datagrams"""
    endpoint = asyncio.get_running_loop().create_datagram_endpoint
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "server"))
        await endpoint(EchoDatagram, local_addr=path, family=socket.AF_UNIX)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(Path(folder, "client")))
        sock.connect(path)
        await ask(sock)


async def subprocess_exec() -> None:
    """`create_subprocess_exec`"""
    made = await asyncio.create_subprocess_exec("echo", "hello", stdout=subprocess.PIPE)
    assert (await made.communicate())[0] == b"hello\n", "its output is missing"


async def subprocess_shell() -> None:
    """`create_subprocess_shell`"""
    made = await asyncio.create_subprocess_shell("echo hello", stdout=subprocess.PIPE)
    assert (await made.communicate())[0] == b"hello\n", "its output is missing"


async def pipes() -> None:
    """`connect_read_pipe`"""
    near, far = os.pipe()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    with os.fdopen(near, "rb", 0) as pipe:
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
        os.write(far, MESSAGE)
        assert await reader.readexactly(len(MESSAGE)) == MESSAGE, "other bytes came"


async def sendfile() -> None:
    """`loop.sendfile`"""
    loop = asyncio.get_running_loop()
    sent = loop.create_future()

    class Sender(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            sent.set_result(transport)

    server = await loop.create_server(Sender, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    far = await asyncio.to_thread(socket.create_connection, (HOST, port), TRY_SECONDS / 2)
    with tempfile.TemporaryFile() as file, far:
        file.write(MESSAGE)
        file.seek(0)
        await loop.sendfile(await sent, file, fallback=False)
        assert await asyncio.to_thread(far.recv, 100) == MESSAGE, "other bytes came"


async def sock_sendto() -> None:
    """`sock_sendto`, `sock_recvfrom`"""
    loop = asyncio.get_running_loop()
    socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sock in socks:
        sock.bind((HOST, 0))
        sock.setblocking(False)
    await loop.sock_sendto(socks[0], MESSAGE, socks[1].getsockname())
    assert (await loop.sock_recvfrom(socks[1], 100))[0] == MESSAGE, "other bytes came"


async def reader_of_a_socket() -> None:
    """`add_reader` of a socket object"""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    readable = loop.create_future()
    loop.add_reader(near, lambda: readable.done() or readable.set_result(None))
    far.send(b"x")
    await readable
    loop.remove_reader(near)


async def signals() -> None:
    """`add_signal_handler` and its removal"""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await came.wait()
    assert loop.remove_signal_handler(signal.SIGUSR1), "there was no handler to remove"


async def eager_tasks() -> None:
    """`eager_task_factory`"""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)

    async def end() -> int:
        return 1

    task = loop.create_task(end())
    assert task.done(), "the task has not run yet"


async def cancelled_handles() -> None:
    """a cancelled callback never runs"""
    loop = asyncio.get_running_loop()
    ran: list[int] = []
    for number in range(100):
        loop.call_soon(ran.append, number).cancel()
        loop.call_later(0, ran.append, number).cancel()
    await asyncio.sleep(0.05)
    assert not ran, f"{len(ran)} of 200 ran"


async def context_of_callbacks() -> None:
    """context variables in `data_received`"""
    variable.set("of the server")
    server = await serve()
    await ask_port(server.sockets[0].getsockname()[1])
    assert Echo.value == "of the server", f"the value is {Echo.value}"


async def wait_closed() -> None:
    """`Server.wait_closed` waits, `close_clients` closes"""
    server = await serve()
    port = server.sockets[0].getsockname()[1]
    client = await asyncio.to_thread(socket.create_connection, (HOST, port), TRY_SECONDS / 2)
    await asyncio.sleep(0.1)
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done, "it did not wait"
    server.close_clients()
    await waiting
    client.close()


async def cycles() -> None:
    """an object that holds its own handle is collected"""

    class Owner:
        def start(self) -> None:
            self.handle = asyncio.get_running_loop().call_soon(self.run)

        def run(self) -> None:
            pass

    owner = Owner()
    owner.start()
    alive = weakref.ref(owner)
    del owner
    await asyncio.sleep(0.05)
    gc.collect()
    assert alive() is None, "it leaks"


async def base_class() -> None:
    """is a `BaseEventLoop`"""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, asyncio.BaseEventLoop), "no"


async def types() -> None:
    """`isinstance` of `asyncio.Transport` and `asyncio.Handle`"""
    loop = asyncio.get_running_loop()
    assert isinstance(loop.call_soon(bool), asyncio.Handle), "no asyncio.Handle"
    near, _far = socket.socketpair()
    near.setblocking(False)
    transport, _ = await loop.create_connection(Echo, sock=near)
    assert isinstance(transport, asyncio.Transport), "no asyncio.Transport"


async def callbacks_of_one_thread() -> None:
    """callbacks of a loop never run at the same time"""
    loop = asyncio.get_running_loop()
    inside: list[int] = []
    most: list[int] = [0]

    def call() -> None:
        inside.append(1)
        most[0] = max(most[0], len(inside))
        time.sleep(0.002)
        inside.pop()

    for _ in range(20):
        loop.call_soon(call)
    await asyncio.sleep(0.2)
    assert most[0] == 1, f"{most[0]} at once"


async def beside_a_blocked_task() -> None:
    """a started task goes on while another one blocks its thread"""
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def block() -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(0.4)
        return began, time.monotonic()

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0.05)
    began, ended = await asyncio.ensure_future(block())
    within = [each for each in ticks if began + 0.05 < each < ended - 0.05]
    ticking.cancel()
    assert within, "it waited"


def system_exit(factory: LoopFactory) -> None:
    """`SystemExit` from a callback ends the run"""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(sys.exit, 3)
        await asyncio.sleep(1)

    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())
    except SystemExit:
        return
    raise AssertionError("it was swallowed")


def several_loops(factory: LoopFactory) -> None:
    """two loops, in two threads at the same time"""
    together = threading.Barrier(2)
    done: list[int] = []

    def run() -> None:
        async def main() -> None:
            together.wait(TRY_SECONDS / 2)
            await asyncio.sleep(0.01)
            done.append(1)

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    threads = [threading.Thread(target=run, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TRY_SECONDS / 2)
    assert len(done) == 2, "they did not both end"


Feature = Callable[[], Coroutine[Any, Any, None]] | Callable[[LoopFactory], None]
FEATURES: dict[str, Feature] = {
    feature.__name__: feature
    for feature in (
        *(base_class, types, tcp_server, server_of_a_socket, accepted_socket, tls, unix_server),
        *(datagrams, unix_datagrams, subprocess_exec, subprocess_shell, pipes, sendfile),
        *(sock_sendto, reader_of_a_socket, signals, eager_tasks, cancelled_handles, system_exit),
        *(context_of_callbacks, wait_closed, cycles, several_loops, callbacks_of_one_thread),
        beside_a_blocked_task,
    )
}
THREADS = 2
"""Of a loop that has threads."""


# --- trying ---------------------------------------------------------------------------------------


def attempt(peer: str, feature: Feature) -> str:
    """What this process finds: `yes`, or why not."""
    try:
        factory, _ = load_factory(peer, THREADS)
        if asyncio.iscoroutinefunction(feature):
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(feature())
        else:
            feature(factory)  # type: ignore[call-arg, arg-type]
    except AssertionError as error:
        return str(error)
    except BaseException as error:
        return describe_error(error).rstrip(": ")
    return "yes"


def try_apart(peer: str, feature: Feature) -> str:
    """As `attempt`, in a process of its own."""
    near, far = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(far, attempt(peer, feature).encode())
        os._exit(0)
    os.close(far)
    with os.fdopen(near, "rb", 0) as answer:
        ready = select.select([answer], [], [], TRY_SECONDS)[0]
        said = answer.read(4096).decode() if ready else f"nothing within {TRY_SECONDS:.0f} s"
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if not said:
        said = f"the process was ended by signal {os.WTERMSIG(status)}"
    text = " ".join(said.replace("|", "/").split())
    return text if len(text) <= REASON_LENGTH else text[:REASON_LENGTH] + "..."


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    peers, features = list(LOOPS), list(FEATURES)
    parser.add_argument("--peers", type=names(peers), default=peers)
    parser.add_argument("--only", type=names(features), default=features)
    options = parser.parse_args()
    if tls.__name__ in options.only:
        make_certificate()
    print(f"| | {' | '.join(options.peers)} |")
    print("|---|" + "---|" * len(options.peers))
    for name in options.only:
        feature = FEATURES[name]
        cells = [try_apart(peer, feature) for peer in options.peers]
        print(f"| {(feature.__doc__ or name).strip()} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
