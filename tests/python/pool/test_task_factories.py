"""The end of a pool whose program has set a task factory: as without one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool

from ..support import HANG

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]


def wraps(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Runs the coroutine inside of another, as tracing does."""

    async def traced() -> Any:
        return await coro

    return asyncio.Task(traced(), loop=loop, **options)


def nests(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Runs the coroutine in a task, and a task that awaits that one."""

    async def watch() -> Any:
        return await asyncio.Task(coro, loop=loop)

    return asyncio.Task(watch(), loop=loop, **options)


class OwnTask(asyncio.Task[Any]):
    """A class of tasks of the program's."""


def of_own_class(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """Makes tasks of a class of the program's."""
    return OwnTask(coro, loop=loop, **options)


FACTORIES = [wraps, nests, of_own_class, asyncio.eager_task_factory]


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("where", [[0], [1], [0, 1]], ids=["loop 0", "loop 1", "both"])
def test_tasks_clean_up_and_values_close(where: list[int], factory: Callable[..., Any]) -> None:
    done: list[str] = []
    kept: list[asyncio.Task[None]] = []

    class Resource:
        async def aclose(self) -> None:
            await asyncio.sleep(0)
            done.append("closed")

    local = loop_pool.LoopLocal(Resource)

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            done.append("cleaned up")

    async def begin() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        local.get()
        kept.append(asyncio.create_task(background()))
        for _ in range(3):
            await asyncio.sleep(0)

    async def main() -> str:
        loops = loop_pool.current_pool().loops
        for index in where:
            await loop_pool.call(loops[index], begin)
        return "result"

    assert loop_pool.run(main(), loops=2, shutdown_timeout=HANG) == "result"
    assert sorted(done) == ["cleaned up"] * len(where) + ["closed"] * len(where)


def test_a_factory_that_fails_costs_only_what_it_is_asked_for(logged_errors: list[str]) -> None:
    ended: list[str] = []

    def fails(loop: Any, coro: Any, **_: Any) -> Any:
        coro.close()
        raise ZeroDivisionError

    class Resource:
        async def aclose(self) -> None:
            ended.append("closed")

    first, second = loop_pool.LoopLocal(Resource), loop_pool.LoopLocal(Resource)

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def begin() -> None:
        first.get()
        second.get()
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        asyncio.get_running_loop().set_task_factory(fails)

    kept: list[asyncio.Task[None]] = []

    async def main() -> str:
        await loop_pool.call(loop_pool.current_pool().loops[1], begin)
        return "result"

    assert loop_pool.run(main(), loops=2, shutdown_timeout=HANG) == "result"
    assert ended == ["cleaned up", "closed", "closed"]
