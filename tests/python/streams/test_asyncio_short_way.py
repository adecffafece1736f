"""When the data of asyncio's own streams go the short way to their reader, and who sees it."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ..support import HANG, check_script, turns
from .support import CLASSES, streaming

_calls: list[tuple[bool, str]] = []
"""Of each wakeup: whether `feed_data` was on the stack, and the value of `_mark`."""

_mark = contextvars.ContextVar("mark", default="")


def _watching(loop_class: Any) -> Any:
    class Loop(loop_class):
        """Notes who wakes a task by a future."""

        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            if args and isinstance(args[0], asyncio.Future) and _mark.get():
                frame: Any = sys._getframe()
                names = set()
                while frame is not None:
                    names.add(frame.f_code.co_name)
                    frame = frame.f_back
                _calls.append(("feed_data" in names, _mark.get()))
            return super().call_soon(callback, *args, context=context)

    return Loop


def _wakeups(
    factory: Callable[[], Any], classes: tuple[type, type], debug: bool
) -> list[tuple[bool, str]]:
    """What a loop sees of the one wakeup of a reader; in debug mode frames are kept as they are."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            # The transport's context is that in which it was made; the task's is another.
            _mark.set("transport")
            stream = await stack.enter_async_context(streaming(classes))
            _mark.set("")
            reading = asyncio.create_task(stream.reader.read(10))
            await turns(2)
            _calls.clear()
            stream.far.sendall(b"some")
            assert await reading == b"some"

    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(main())
    return _calls.copy()


def wakeups_of_each() -> dict[str, list[tuple[bool, str]]]:
    """What a loop sees of the wakeup of a reader, by the classes of the stream."""
    import loop_pool

    watching = _watching(loop_pool.EventLoop)
    return {
        name: _wakeups(watching, CLASSES[name], debug=False)
        for name in ("own", "other-reader", "other-protocol")
    }


@pytest.mark.smoke
@pytest.mark.loop_pool_only
def test_data_reach_a_reader_without_a_python_frame_in_the_transport_s_context() -> None:
    """In a process of its own: once tools have watched Python code, all goes the long way."""
    program = f"""
    import importlib, sys
    sys.path[:] = {sys.path!r}
    print(importlib.import_module({__name__!r}).wakeups_of_each())
    """
    assert ast.literal_eval(check_script(program)) == {
        "own": [(False, "transport")],
        "other-reader": [(True, "transport")],
        "other-protocol": [(True, "transport")],
    }


@pytest.mark.loop_pool_only
def test_debug_mode_goes_by_data_received() -> None:
    import loop_pool

    watching = _watching(loop_pool.EventLoop)
    assert _wakeups(watching, CLASSES["own"], debug=True) == [(True, "transport")]


_ECHO = """
    import asyncio, sys
    import loop_pool
    from asyncio import StreamReader, StreamReaderProtocol

    seen = []

    async def main(change):
        async def serve(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for number in range(3):
                if number == 2:
                    change()
                writer.write(b"%d" % number)
                assert await reader.read(100) == b"%d" % number
                if number > 0:
                    print(len(seen))
            writer.close()
            await writer.wait_closed()

    def run(change):
        asyncio.run(main(change), loop_factory=loop_pool.new_event_loop)
"""


@pytest.mark.smoke
@pytest.mark.loop_pool_only
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("StreamReaderProtocol", "data_received"),
        ("StreamReader", "feed_data"),
        ("StreamReader", "_wakeup_waiter"),
        ("asyncio.Protocol", "__getattribute__"),
    ],
)
def test_a_method_replaced_on_the_class_is_called_at_once(owner: str, name: str) -> None:
    """For open connections, too: twice for a message and its echo."""
    source = f"""
    original = {owner}.{name}

    def spy(self, *args):
        if {name!r} != "__getattribute__" or args[0] == "data_received":
            seen.append(args)
        return original(self, *args)

    run(lambda: setattr({owner}, {name!r}, spy))
    """
    assert check_script(_ECHO + source).split() == ["0", "2"]


@pytest.mark.loop_pool_only
def test_a_method_replaced_before_the_import_is_called() -> None:
    source = """
    import asyncio
    original = asyncio.StreamReader.feed_data
    seen = []

    def spy(self, data):
        seen.append(data)
        original(self, data)

    asyncio.StreamReader.feed_data = spy
    """
    before = _ECHO.replace("seen = []", "")
    assert check_script(source + before + "\n    run(lambda: None)").split() == ["4", "6"]


@pytest.mark.smoke
@pytest.mark.loop_pool_only
@pytest.mark.parametrize(
    "watch",
    [
        "sys.setprofile(see)",
        "sys.settrace(see)",
        "(sys.monitoring.use_tool_id(2, 'test'),"
        " sys.monitoring.register_callback(2, sys.monitoring.events.PY_START, start),"
        " sys.monitoring.set_events(2, sys.monitoring.events.PY_START))",
    ],
    ids=["profile", "trace", "monitoring"],
)
def test_tools_that_watch_calls_see_those_of_feed_data(watch: str) -> None:
    source = f"""
    def see(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "feed_data":
            seen.append(event)

    def start(code, offset):
        if code.co_name == "feed_data":
            seen.append(code)

    run(lambda: {watch})
    """
    assert check_script(_ECHO + source).split() == ["0", "2"]


@pytest.mark.loop_pool_only
@pytest.mark.timeout(5 * HANG)  # Its threads take turns, which takes long where others work.
def test_attributes_that_other_threads_add_to_a_reader_lose_no_wakeup() -> None:
    """They move its attributes out of the instance, at any moment of a wakeup."""
    check_script(
        """
        import asyncio, random, socket, threading, weakref
        import loop_pool

        def meddle():
            chance = random.Random(1)
            while True:
                turn.acquire()
                mine = reader
                if mine is None:
                    return
                far.send(b"hello")
                for _ in range(chance.randrange(300)):
                    pass
                for number in range(8):
                    setattr(mine, f"x{number}", number)
                for number in range(30):
                    vars(mine)[f"y{number}"] = number

        async def main():
            global reader
            loop = asyncio.get_running_loop()
            _, writer = await asyncio.open_connection(sock=near)
            protocol = writer.transport.get_protocol()
            # Each takes two turns of the threads, for which they may have to wait.
            until, rounds = loop.time() + 10, 0
            while rounds < 5000 and loop.time() < until:
                rounds += 1
                reader = asyncio.StreamReader(loop=loop)
                reader.set_transport(writer.transport)
                protocol._stream_reader_wr = weakref.ref(reader)
                reading = asyncio.create_task(reader.readexactly(5))
                await asyncio.sleep(0)
                turn.release()
                assert await asyncio.wait_for(reading, 30) == b"hello"
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

        near, far = socket.socketpair()
        turn, reader = threading.Semaphore(0), None
        thread = threading.Thread(target=meddle)
        thread.start()
        try:
            with far:
                asyncio.run(main(), loop_factory=loop_pool.new_event_loop)
        finally:
            reader = None
            turn.release()
            thread.join()
        """,
        timeout=4 * HANG,
    )


@pytest.mark.stress
def test_attributes_that_other_threads_add_to_a_stream_s_protocol_lose_no_data() -> None:
    """They move its attributes out of the instance while data come for it."""
    check_script("""
        import asyncio, random, socket, threading, time
        import loop_pool

        def meddle(seed):
            chance, count = random.Random(seed), 0
            while not over:
                if (both := streams) is None:
                    continue
                mine, count = chance.choice(both), count + 1
                try:
                    match chance.randrange(5):
                        case 0:
                            vars(mine)
                        case 1:
                            setattr(mine, f"x{count % 40}", count)
                        case 2:
                            mine.__dict__.update({f"y{count % 50}": 1})
                        case 3:
                            mine.__dict__.pop(f"x{count % 40}", None)
                        case 4:
                            delattr(mine, f"x{count % 40}")
                except (AttributeError, RuntimeError):
                    pass  # it has none of that name, or another thread changed them
                if chance.random() < 0.02:
                    time.sleep(0)

        async def main():
            global streams
            end = time.monotonic() + 15
            while time.monotonic() < end:
                near, far = socket.socketpair()
                reader, writer = await asyncio.open_connection(sock=near)
                streams = (reader, reader, writer._protocol)
                for _ in range(10):
                    reading = asyncio.create_task(reader.readexactly(5))
                    await asyncio.sleep(0)
                    far.send(b"hello")
                    await asyncio.wait([reading], timeout=3)
                    assert reading.done()
                streams = None
                writer.close()
                far.close()

        over, streams = False, None
        threads = [threading.Thread(target=meddle, args=(seed,)) for seed in (10, 11)]
        for thread in threads:
            thread.start()
        try:
            asyncio.run(main(), loop_factory=loop_pool.new_event_loop)
        finally:
            over = True
            for thread in threads:
                thread.join()
    """)
