"""What the tests of pools share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import loop_pool

from ..support import HANG


def run[T](main: Callable[[], Coroutine[Any, Any, T]], loops: int = 2, **options: Any) -> T:
    """Runs `main` with a pool; a hang is a failure."""
    return loop_pool.run(asyncio.wait_for(main(), HANG), loops=loops, **options)


def loops() -> tuple[loop_pool.EventLoop, ...]:
    """The loops of the pool that runs here."""
    return loop_pool.current_pool().loops
