"""What belongs to another loop of the pool is told as such: the object, both loops, the ways out.

Outside of debug mode by a note on asyncio's own error.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import loop_pool

from ..support import HANG, eventually, run_script

pytestmark = pytest.mark.usefixtures("clean_process")


class Connection:
    """As drivers are inside: a future for each answer, made on the loop that connected."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.lock = asyncio.Lock()
        self.reader = asyncio.StreamReader()
        self.native = loop_pool._loop.streams.StreamReader()

    async def ask(self) -> None:
        await self.loop.create_future()

    async def ask_alone(self) -> None:
        async with self.lock:
            await self.ask()

    async def ask_with_a_limit(self) -> None:
        await asyncio.wait_for(self.loop.create_future(), HANG)

    async def ask_shielded(self) -> None:
        await asyncio.shield(self.loop.create_future())

    async def ask_all(self) -> None:
        await asyncio.gather(asyncio.sleep(HANG), self.loop.create_future())

    async def ask_each(self) -> None:
        for answer in asyncio.as_completed([self.loop.create_future()]):
            await answer

    async def read(self) -> None:
        await self.reader.readline()

    async def read_natively(self) -> None:
        await self.native.readline()


class Client:
    """What a program has of a connection."""

    def __init__(self) -> None:
        self.connection = Connection()

    async def do(self, what: str) -> None:
        await getattr(self.connection, what)()


USES = [name for name in vars(Connection) if name.startswith(("ask", "read"))]


async def said_on(index: int, coroutine: Coroutine[Any, Any, object]) -> tuple[str, str]:
    """What a coroutine fails with on a loop of the pool, where it is caught: message and notes."""

    async def catch() -> tuple[str, str]:
        with pytest.raises((RuntimeError, ValueError)) as caught:
            await coroutine
        return str(caught.value), "\n".join(getattr(caught.value, "__notes__", []))

    return await loop_pool.spawn(catch(), loop=loop_pool.current_pool().loops[index])


@pytest.mark.smoke
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("use", USES)
def test_a_client_that_loops_share_is_named_with_the_ways_out(use: str, debug: bool) -> None:
    async def main() -> None:
        client = Client()
        holder = asyncio.create_task(client.do("ask_alone"))
        other = asyncio.create_task(client.do("ask_alone"))
        await eventually(lambda: bool(client.connection.lock._waiters), "one waits for the lock")
        message, notes = await said_on(1, client.do(use))
        text = message if debug else notes
        assert "different" in message
        assert "belongs to loop-pool-0" in text
        assert "on loop-pool-1." in text
        assert repr(client.connection) in text
        assert repr(client) in text
        assert "loop_pool.LoopLocal" in text
        assert "loop_pool.call(loop" in text
        if not debug:
            assert "loop-pool-" not in message
        for task in (holder, other):
            task.cancel()

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=debug)


def test_in_debug_mode_waiting_for_a_future_of_another_loop_is_refused_at_once() -> None:
    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        task = loop_pool.spawn(asyncio.sleep(0))
        message, _ = await said_on(1, asyncio.wait([future]))
        assert message.startswith("The future belongs to a different loop than the one that waits")
        assert f"{future!r} belongs to loop-pool-0 and was used on loop-pool-1." in message
        assert "loop_pool.LoopLocal" in message
        done, _ = await asyncio.wait([task], timeout=HANG)  # type: ignore[type-var]
        assert done == {task}

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=True)


def test_futures_of_another_make_may_be_waited_for_in_debug_mode() -> None:
    class Ready:
        """As much of a future as `asyncio.wait` needs; it does not tell its loop."""

        def add_done_callback(self, fn: Callable[..., object]) -> None:
            asyncio.get_running_loop().call_soon(fn, self)

        def remove_done_callback(self, fn: Callable[..., object]) -> None:
            """There is none any more."""

        def cancelled(self) -> bool:
            return False

        def exception(self) -> None:
            """It did not fail."""

        done = cancelled

    async def main() -> None:
        ready: Any = Ready()
        await asyncio.wait([ready])

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=True)


CALLS: dict[str, Callable[[Any], object]] = {
    "call_soon": lambda loop: loop.call_soon(print),
    "call_soon, a future": lambda loop: loop.call_soon(print, loop.create_future()),
    "call_later": lambda loop: loop.call_later(0, print),
    "call_at": lambda loop: loop.call_at(0, print),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_plain_call_from_another_loop_is_refused_with_a_note(call: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        class Retry:
            async def schedule(self) -> None:
                CALLS[call](loop)

        retry = Retry()
        message, notes = await said_on(1, retry.schedule())
        assert message == (
            "Non-thread-safe operation invoked on an event loop other than the current one"
        )
        assert "the loop is loop-pool-0, the call came on loop-pool-1." in notes
        assert repr(retry) in notes
        assert "call_soon_threadsafe" in notes
        assert "loop_pool.LoopLocal" in notes

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=True)


def test_a_group_of_another_loop_is_named() -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as group:

            async def add() -> None:
                with contextlib.closing(asyncio.sleep(0)) as work:
                    group.create_task(work)

            message, _ = await said_on(1, add())
        assert "<TaskGroup" in message
        assert "belongs to loop-pool-0 and was used on loop-pool-1." in message
        assert "loop_pool.TaskGroup serves every loop" in message

    loop_pool.run(asyncio.wait_for(main(), HANG), loops=2, debug=True)


def test_errors_of_the_same_kinds_stay_as_they_are() -> None:
    """What asyncio's modules raise otherwise, and what is raised where no pool is."""

    async def main() -> None:
        with pytest.raises(ValueError, match=r"^Set of Tasks/Futures is empty\.$") as caught:
            await asyncio.wait([])
        assert type(caught.value) is ValueError
        assert not hasattr(caught.value, "__notes__")

    loop_pool.run(main(), loops=2)

    async def alone() -> None:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        event._loop = object()  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match=r"is bound to a different event loop$") as bound:
            await event.wait()
        other = asyncio.new_event_loop()
        with pytest.raises(ValueError, match="than the one specified as the loop") as mismatch:
            asyncio.ensure_future(other.create_future(), loop=loop)
        other.close()
        for error in (bound.value, mismatch.value):
            assert type(error) in {RuntimeError, ValueError}
            assert not hasattr(error, "__notes__")

    for factory in (asyncio.SelectorEventLoop, loop_pool.new_event_loop):
        asyncio.run(alone(), loop_factory=factory)


def test_an_application_s_own_client_is_told_of_in_the_log() -> None:
    """What a server logs of an error has the note: here, of a module's own connection."""
    source = """
        import asyncio, logging, loop_pool
        logging.basicConfig(format="%(message)s")

        class Client:
            def __init__(self):
                self.answer = asyncio.get_running_loop().create_future()
            async def ask(self):
                return await self.answer

        async def main():
            client = Client()
            async def handler():
                try:
                    await client.ask()
                except Exception:
                    logging.exception("in a handler")
            await loop_pool.spawn(handler(), loop=loop_pool.current_pool().loops[1])

        loop_pool.run(main(), loops=2)
    """
    logged = run_script(source).stderr
    assert "in a handler" in logged
    assert "Client object" in logged
    assert "loop_pool.LoopLocal" in logged
