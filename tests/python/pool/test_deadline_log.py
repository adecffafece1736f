"""What a pool whose deadline is missed says of its tasks takes little of the second that it has."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

import loop_pool
from loop_pool._pool import grace, shutdown

from ..support import HANG

pytestmark = pytest.mark.usefixtures("clean_process")


def test_of_many_tasks_that_do_not_end_some_are_named_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
) -> None:
    monkeypatch.setattr(grace, "REPORTING", HANG)

    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async def main() -> None:
        kept.extend(asyncio.create_task(stay()) for _ in range(1000))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    loop_pool.run(main(), loops=1, shutdown_timeout=0.01)
    for task in kept:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    named = [text for text in logged_errors if "this task did not end in time: " in text]
    assert len(named) == shutdown.SHOWN
    rest = len(kept) - shutdown.SHOWN
    assert f"loop-pool-0: {rest} more tasks did not end in time" in logged_errors
    logged_errors.clear()


class _SlowToShow(asyncio.Task[None]):
    def __repr__(self) -> str:
        time.sleep(2 * grace.REPORTING)
        return "a task that is slow to show"


def test_tasks_that_are_slow_to_show_are_counted(logged_errors: list[str]) -> None:
    async def stay() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept.extend(_SlowToShow(stay(), loop=loop) for _ in range(10))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    loop_pool.run(main(), loops=1, shutdown_timeout=0.01)
    for task in kept:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    assert [text for text in logged_errors if "not end in time" in text] == [
        "loop-pool-0: this task did not end in time: a task that is slow to show",
        "loop-pool-0: 9 more tasks did not end in time",
    ]
    logged_errors.clear()


def test_a_handler_of_exceptions_that_is_slow_is_called_while_there_is_time(
    logged_errors: list[str],
) -> None:
    timeout = 1.0
    told: list[object] = []

    def handle(_: object, context: dict[str, object]) -> None:
        told.append(context)
        time.sleep(timeout + 2 * grace.REPORTING)

    async def fail() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            raise ValueError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(handle)
        kept.extend(asyncio.create_task(fail()) for _ in range(10))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    loop_pool.run(main(), loops=1, shutdown_timeout=timeout)
    assert len(told) == 1
    assert "loop-pool-0: exceptions of 9 more tasks are not reported" in logged_errors
    logged_errors.clear()
