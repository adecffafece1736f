"""What the tests of pools share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import loop_pool

from ..support import HANG


def run[T](
    main: Callable[[], Coroutine[Any, Any, T]],
    loops: int = 2,
    *,
    limit: float = HANG,
    **options: Any,
) -> T:
    """Runs `main` with a pool; a hang, of more than `limit` seconds, is a failure."""
    return loop_pool.run(asyncio.wait_for(main(), limit), loops=loops, **options)


def loops() -> tuple[loop_pool.EventLoop, ...]:
    """The loops of the pool that runs here."""
    return loop_pool.current_pool().loops


async def answer[T](value: T, steps: int = 1) -> T:
    """Returns `value` after some turns."""
    for _ in range(steps):
        await asyncio.sleep(0)
    return value


async def where() -> asyncio.AbstractEventLoop:
    """The loop that it runs on."""
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


async def for_ever() -> None:
    """Never ends by itself."""
    await asyncio.Event().wait()


async def fail(message: str = "") -> None:
    """Raises after a turn."""
    await asyncio.sleep(0)
    raise ZeroDivisionError(message)
