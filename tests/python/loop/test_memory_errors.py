"""Memory that is not to be had is a `MemoryError`, wherever it is asked for: raised, or reported.

CPython's own test hook lets one allocation after another fail. What comes of it is an exception
that a program can catch, as on asyncio's loop; some waits are not woken any more, as there.
"""

from __future__ import annotations

import asyncio
import sys

import pytest

from ..support import LoopFactory, factory_path, run_script

_testcapi = pytest.importorskip(
    "_testcapi", reason="allocations are made to fail by _testcapi, which not every Python has"
)

# The scenarios, each of which is run once for each of its allocations.
_SCENARIOS = """
import asyncio, contextlib, importlib, logging, socket, sys
import _testcapi

async def call_soon(loop):
    done = loop.create_future()
    loop.call_soon(done.set_result, 1000)
    loop.call_soon_threadsafe(lambda *_: None, 1, 2)
    loop.call_later(0, lambda: None)
    loop.call_at(loop.time() + 1000, print).cancel()
    await done
    await asyncio.sleep(0)

async def failing_callbacks(loop):
    done = loop.create_future()
    loop.call_soon({}.__getitem__, 1)
    loop.call_later(0, {}.__getitem__, 1)
    loop.call_soon(done.set_result, None)
    await done

async def task(loop):
    async def answer(value):
        await asyncio.sleep(0)
        return value

    await loop.create_task(answer(1000), name="a name")
    await asyncio.gather(answer(1), answer(2))
    cancelled = loop.create_task(answer(3))
    cancelled.cancel("a message")
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled

async def refused(loop):
    for call in (
        lambda: loop.call_later(None, print),
        lambda: loop.create_task(),
        lambda: loop.call_at(1),
        lambda: loop.add_reader("no descriptor", print),
        lambda: loop.add_reader(-1, print),
        lambda: loop.add_reader(99999, print),
        lambda: loop.call_soon(print, unknown=1),
        lambda: loop.run_forever(),
    ):
        try:
            call()
        except MemoryError:
            raise
        except Exception:
            pass

async def reader(loop):
    ours, peer = socket.socketpair()
    with ours, peer:
        try:
            done = loop.create_future()
            loop.add_reader(ours, lambda _: done.done() or done.set_result(None), 1)
            peer.send(b"x")
            await done
            loop.remove_reader(ours)
            loop.add_writer(ours.fileno(), print)
        finally:
            loop.remove_reader(ours)
            loop.remove_writer(ours)

async def sock_methods(loop):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        loop.call_soon(peer.send, bytes(300))
        await loop.sock_recv(ours, 1000)
        loop.call_soon(peer.send, bytes(300))
        await loop.sock_recv_into(ours, bytearray(1000))
        await loop.sock_sendall(ours, bytes(1000))

class Echo(asyncio.Protocol):
    def __init__(self):
        self.got, self.lost = (asyncio.get_running_loop().create_future() for _ in range(2))

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)
        self.got.done() or self.got.set_result(None)

    def connection_lost(self, error):
        self.lost.done() or self.lost.set_result(None)

async def connection(loop):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        transport, protocol = await loop.create_connection(Echo, sock=ours)
        peer.send(b"hello")
        await protocol.got
        transport.write(bytes(300000))
        transport.pause_reading()
        transport.resume_reading()
        transport.get_write_buffer_size()
        peer.close()
        await protocol.lost

async def streams(loop):
    ours, peer = socket.socketpair()
    with ours, peer:
        reader, writer = await asyncio.open_connection(sock=ours)
        peer.send(b"a line\\nfive!")
        await reader.readline()
        await reader.readexactly(5)
        loop.call_soon(peer.send, b"another\\n")
        await reader.readuntil()
        writer.write(b"x")
        await writer.drain()
        peer.recv(1)
        peer.close()
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readexactly(5)
        writer.close()
        await writer.wait_closed()

async def datagrams(loop):
    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            got.done() or got.set_result(None)

    got = loop.create_future()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    try:
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        await got
    finally:
        transport.close()

async def spawn(loop):
    async def answer(value):
        await asyncio.sleep(0)
        return value

    await loop_pool.spawn(answer(1000))
    cancelled = loop_pool.spawn(answer(1))
    cancelled.cancel("a message")
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled
    watched = loop_pool.spawn(answer(2))
    watched.add_done_callback(lambda task: task.get_name())
    await watched
"""

_EACH_POINT = """
LIMIT = 0.02  # ends a wait that nothing wakes any more, as there are on asyncio's loop
QUIET = 15  # so many points in a row without an effect: there are no more

async def armed(loop, work, point):
    loop.set_exception_handler(lambda _, context: outcomes.append(context.get("exception")))
    loop.call_later(LIMIT, loop.stop)
    _testcapi.set_nomemory(point, point + 1)
    try:
        await work
    finally:
        _testcapi.remove_mem_hooks()

def on_a_loop(scenario, point):
    loop = make_loop()
    try:
        loop.run_until_complete(loop.create_task(armed(loop, scenario(loop), point)))
    finally:
        _testcapi.remove_mem_hooks()
        loop.close()

def in_a_pool(scenario, point):
    async def main():
        loop = asyncio.get_running_loop()
        await armed(loop, scenario(loop), point)

    try:
        loop_pool.run(main(), loops=1, shutdown_timeout=LIMIT)
    finally:
        _testcapi.remove_mem_hooks()

def check(each):
    text = f"point {point}: {type(each).__name__}: {each}"
    assert isinstance(each, Exception | asyncio.CancelledError), text
    assert "internal error" not in str(each), text

module, factory, name = sys.argv[1:]
make_loop = getattr(importlib.import_module(module), factory)
attempt = on_a_loop
if name == "spawn":
    import loop_pool
    attempt = in_a_pool
outcomes, effects, quiet, point = [], 0, 0, 0
logging.disable(logging.CRITICAL)
sys.unraisablehook = lambda seen: outcomes.append(seen.exc_value)
while quiet < QUIET and point < 400:
    point += 1
    outcomes.clear()
    try:
        attempt(globals()[name], point)
    except BaseException as error:
        outcomes.append(error)
    seen = [each for each in outcomes if each is not None]
    for each in seen:
        check(each)
    failed = any(isinstance(each, MemoryError) for each in seen)
    effects += failed
    quiet = 0 if failed else quiet + 1
assert effects, "no allocation failed"
print("well")
"""


def _go_through(factory: LoopFactory, scenario: str) -> None:
    done = run_script(_SCENARIOS + _EACH_POINT, *factory_path(factory).split(":"), scenario)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "well\n"
    # A stream that is collected after its loop has closed says so there, on asyncio's loop too.
    assert "panicked" not in done.stderr


@pytest.mark.parametrize(
    "scenario",
    [
        "call_soon",
        "failing_callbacks",
        "task",
        "refused",
        "reader",
        "sock_methods",
        "connection",
        "streams",
        "datagrams",
    ],
)
def test_a_failed_allocation_is_a_memory_error(loop_factory: LoopFactory, scenario: str) -> None:
    its_own = loop_factory is asyncio.SelectorEventLoop
    if its_own and scenario == "streams" and sys.version_info >= (3, 15):
        pytest.skip("CPython 3.15.1 itself crashes there")
    _go_through(loop_factory, scenario)


@pytest.mark.loop_pool_only
def test_a_failed_allocation_is_a_memory_error_to_spawn(loop_factory: LoopFactory) -> None:
    _go_through(loop_factory, "spawn")
