"""`loop_pool.LoopLocal`: one value for each loop, closed with it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

import loop_pool

from ..support import eventually
from .support import run

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

MOOD = contextvars.ContextVar[str]("MOOD", default="none")


class Client:
    """A value that notes where it was made and closed."""

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._log = log
        log.append(("made", self.loop))

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is self.loop
        self._log.append(("closed", self.loop))

    def close(self) -> None:
        raise AssertionError("there is `aclose`")


def test_each_loop_has_its_own_for_all_its_tasks(count: int) -> None:
    log: list[tuple[str, Any]] = []
    local = loop_pool.LoopLocal(lambda: Client(log))

    async def ask() -> Client:
        values = [local.get(), await local]
        values += await asyncio.gather(*(_await(local) for _ in range(10)))
        assert len(set(map(id, values))) == 1
        return values[0]

    async def main() -> None:
        clients = await loop_pool.broadcast(ask)
        loops = loop_pool.current_pool().loops
        assert [client.loop for client in clients] == list(loops)
        assert len(log) == count

    run(main, count)
    made, closed = log[:count], log[count:]
    assert {loop for _, loop in made} == {loop for _, loop in closed}
    assert [what for what, _ in closed] == ["closed"] * count


async def _await[T](local: loop_pool.LoopLocal[T]) -> T:
    return await local


def test_it_is_made_once_though_many_await_it_at_once(count: int) -> None:
    calls: list[asyncio.AbstractEventLoop] = []

    async def make() -> object:
        calls.append(asyncio.get_running_loop())
        for _ in range(5):
            await asyncio.sleep(0)
        return object()

    local = loop_pool.LoopLocal(make)

    async def ask() -> int:
        values = await asyncio.gather(*(_await(local) for _ in range(20)))
        assert local.get() is values[0]
        return len(set(map(id, values)))

    async def main() -> None:
        assert await loop_pool.broadcast(ask) == [1] * count
        assert set(calls) == set(loop_pool.current_pool().loops)

    run(main, count)
    assert len(calls) == count


def test_one_object_serves_several_pools(count: int) -> None:
    log: list[tuple[str, Any]] = []
    local = loop_pool.LoopLocal(lambda: Client(log))

    async def main() -> None:
        await loop_pool.broadcast(local.get)

    for _ in range(3):
        run(main, count)
    whats = [what for what, _ in log]
    assert whats == (["made"] * count + ["closed"] * count) * 3


def test_it_is_closed_after_the_tasks_and_before_generators_and_executor(count: int) -> None:
    order: list[str] = []

    async def main() -> None:
        local = loop_pool.LoopLocal(object, close=lambda _: order.append("value"))

        async def task() -> None:
            local.get()
            try:
                await asyncio.Event().wait()
            finally:
                assert local.get()
                order.append("task")

        async def generator() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                order.append("generator")

        async def begin() -> list[object]:
            running = asyncio.create_task(task())
            generating = generator()
            await anext(generating)
            asyncio.get_running_loop().run_in_executor(None, int)
            return [running, generating]

        kept.append(await loop_pool.broadcast(begin))

    kept: list[object] = []
    run(main, count)
    assert order == ["task"] * count + ["value"] * count + ["generator"] * count


def test_the_last_one_made_is_closed_first() -> None:
    order: list[str] = []
    outer = loop_pool.LoopLocal(lambda: "outer", close=order.append)
    inner = loop_pool.LoopLocal(lambda: f"inner of {outer.get()}", close=order.append)

    async def main() -> None:
        assert await inner == "inner of outer"

    run(main, 1)
    assert order == ["inner of outer", "outer"]


def test_a_context_manager_is_entered_and_left_in_one_context(count: int) -> None:
    order: list[tuple[str, str]] = []

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[str]:
        token = MOOD.set("inside")
        yield "value"
        order.append(("left", MOOD.get()))
        MOOD.reset(token)

    local = loop_pool.LoopLocal(make)

    async def ask() -> None:
        MOOD.set("asked")
        with pytest.raises(RuntimeError, match="must be awaited"):
            local.get()
        assert await local == "value"
        assert local.get() == "value"
        assert MOOD.get() == "asked"

    async def main() -> None:
        await loop_pool.broadcast(ask)

    run(main, count)
    assert order == [("left", "inside")] * count


def test_a_lock_is_not_entered(count: int) -> None:
    local = loop_pool.LoopLocal(asyncio.Lock)

    async def ask() -> None:
        assert not (await local).locked()
        async with await local:
            assert local.get().locked()

    async def main() -> None:
        await loop_pool.broadcast(ask)

    run(main, count)


def test_an_awaitable_is_awaited(count: int) -> None:
    class Pool:
        def __init__(self) -> None:
            self.ready = False

        def __await__(self) -> Any:
            async def begin() -> Pool:
                await asyncio.sleep(0)
                self.ready = True
                return self

            return begin().__await__()

        async def close(self) -> None:
            self.ready = False

    pools: list[Any] = []
    local = loop_pool.LoopLocal[Any](Pool)

    async def ask() -> None:
        pools.append(await local)
        assert pools[-1].ready

    async def main() -> None:
        await loop_pool.broadcast(ask)

    run(main, count)
    assert [pool.ready for pool in pools] == [False] * count


def test_what_has_to_be_awaited_cannot_be_got_before() -> None:
    async def make() -> str:
        await asyncio.sleep(0)
        return "value"

    def hidden() -> Coroutine[Any, Any, str]:
        return make()

    async def main() -> None:
        # The second one cannot be known by its kind before it is called.
        for local in (loop_pool.LoopLocal(make), loop_pool.LoopLocal(hidden)):
            with pytest.raises(RuntimeError, match="await"):
                local.get()
            task = asyncio.create_task(_await(local))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="has not been created yet: await it"):
                local.get()
            assert await task == "value"
            assert local.get() == "value"

    run(main, 1)
    gc.collect()


def test_after_a_failure_the_next_one_tries_again(count: int) -> None:
    async def main() -> None:
        async def ask() -> None:
            attempts: list[None] = []

            def make_now() -> int:
                attempts.append(None)
                return 1 // (len(attempts) - 1)

            async def make() -> int:
                await asyncio.sleep(0)
                return make_now()

            for factory in (make_now, make):
                attempts.clear()
                local = loop_pool.LoopLocal[Any](factory)
                results = await asyncio.gather(
                    *(_await(local) for _ in range(1 if factory is make_now else 3)),
                    return_exceptions=True,
                )
                assert {type(result) for result in results} == {ZeroDivisionError}
                await asyncio.sleep(0)
                assert await local == 1
                assert len(attempts) == 2

        await loop_pool.broadcast(ask)

    run(main, count)


def test_cancelling_who_asked_first_leaves_the_value_to_the_others() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def make() -> str:
            await go.wait()
            return "value"

        local = loop_pool.LoopLocal(make)
        first = asyncio.create_task(_await(local))
        second = asyncio.create_task(_await(local))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.set()
        assert await second == "value"

    run(main, 1)


def test_a_factory_that_asks_for_itself_is_told() -> None:
    async def main() -> None:
        def make_now() -> Any:
            return now.get()

        async def make() -> Any:
            return await later

        now = loop_pool.LoopLocal[Any](make_now)
        later = loop_pool.LoopLocal[Any](make)
        with pytest.raises(RuntimeError, match="asks for its own value"):
            now.get()
        with pytest.raises(RuntimeError, match="awaits its own value"):
            await later

    run(main, 1)


def test_errors_at_the_end_are_reported_with_the_loop_s_name(
    count: int, logged_errors: list[str]
) -> None:
    closed: list[str] = []

    async def fail(_: object) -> None:
        raise ZeroDivisionError

    first = loop_pool.LoopLocal(lambda: "first", close=closed.append)
    failing = loop_pool.LoopLocal(object, close=fail)

    async def ask() -> None:
        first.get()
        failing.get()

    async def main() -> None:
        await loop_pool.broadcast(ask)

    run(main, count)
    assert closed == ["first"] * count
    assert sorted(logged_errors) == [
        f"loop-pool-{n}: closing the value of <LoopLocal object> failed" for n in range(count)
    ]
    logged_errors.clear()


def test_one_that_does_not_close_is_named_and_left(logged_errors: list[str]) -> None:
    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    closed: list[str] = []
    first = loop_pool.LoopLocal(lambda: "first", close=closed.append)
    hanging = loop_pool.LoopLocal(object, close=hang)

    async def main() -> None:
        first.get()
        hanging.get()

    run(main, 2, shutdown_timeout=0.1)
    assert closed == ["first"]
    assert logged_errors == ["loop-pool-0: the value of <LoopLocal object> did not close in time"]
    logged_errors.clear()


def test_nothing_is_made_when_the_values_are_closed() -> None:
    messages: list[str] = []
    late = loop_pool.LoopLocal(object)

    def ask(_: object) -> None:
        try:
            late.get()
        except RuntimeError as error:
            messages.append(str(error))

    local = loop_pool.LoopLocal(object, close=ask)

    async def main() -> None:
        local.get()

    run(main, 1)
    assert messages == ["loop-pool-0 has closed its values and creates none for <LoopLocal object>"]


def test_one_that_is_still_being_made_at_the_end_is_given_up(count: int) -> None:
    closed: list[object] = []

    async def make() -> str:
        await asyncio.Event().wait()
        return "never"

    local = loop_pool.LoopLocal(make, close=closed.append)
    kept: list[object] = []

    async def begin() -> None:
        kept.append(asyncio.create_task(_await(local)))
        await asyncio.sleep(0)

    async def main() -> None:
        await loop_pool.broadcast(begin)

    run(main, count)
    assert len(kept) == count
    assert not closed


def test_outside_of_a_pool_it_says_so() -> None:
    local = loop_pool.LoopLocal(object)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no running loop_pool in this thread"):
            await local

    asyncio.run(main())
    with pytest.raises(RuntimeError, match="no running loop_pool in this thread"):
        local.get()


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="factory must be callable"):
        loop_pool.LoopLocal(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="close must be callable"):
        loop_pool.LoopLocal(object, close=7)  # type: ignore[arg-type]


def test_a_task_that_is_cleaning_up_may_still_make_one(count: int) -> None:
    log: list[tuple[str, Any]] = []
    local = loop_pool.LoopLocal(lambda: Client(log))
    begun: list[object] = []

    async def task() -> None:
        begun.append(asyncio.current_task())
        try:
            await asyncio.Event().wait()
        finally:
            local.get()

    async def main() -> None:
        for loop in loop_pool.current_pool().loops:
            loop_pool.spawn(task(), loop=loop)
        await eventually(lambda: len(begun) == count, "all have begun")

    run(main, count)
    assert [what for what, _ in log] == ["made"] * count + ["closed"] * count
