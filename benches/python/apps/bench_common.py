"""What both applications answer with: `bench_raw` (ASGI alone) and `bench_fastapi`.

A server imports them by name: this folder is on the path of its processes. The environment tells
them the rest (`applications.py` sets it):

- `BENCH_STARTS`: a file to which each start of an application adds a line;
- `BENCH_STUCK`: with any value, each loop is stuck regularly from its start on (`be_stuck`);
- `BENCH_DATABASE`: the URL of PostgreSQL; `BENCH_DATABASE_CONNECTIONS`: so many for each loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

PLAIN = b"Hello, World!"
LARGE = (bytes(range(0x20, 0x7F)) * 108)[: 10 * 1024]
"""What `/large` answers: 10 KiB."""
MESSAGE = {"message": "Hello, World!", "numbers": [1, 2, 3], "ok": True}
"""What `/json` answers."""
HEAVY_SECONDS = 0.05
"""Processor time of its thread that `/heavy` takes."""
STUCK_SECONDS, STUCK_PERIOD = 0.05, 0.1
"""How long a loop is stuck, and how often."""
ROW = 500
QUERY = "select id, name, price from items where id = $1"

_pools: dict[asyncio.AbstractEventLoop, asyncio.Future[Any]] = {}
"""One for each loop, which alone touches its own."""


def note_start() -> None:
    """Tell the parent that an application has started, here and on this thread."""
    line = f"{os.getpid()} {threading.get_native_id()}\n"
    with open(os.environ["BENCH_STARTS"], "ab", buffering=0) as starts:
        starts.write(line.encode())
    if os.environ.get("BENCH_STUCK"):
        be_stuck()


def state() -> dict[str, Any]:
    """What `/state` answers: on what the application runs."""
    loop = type(asyncio.get_running_loop())
    return {
        "gil_enabled": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "loop": f"{loop.__module__}.{loop.__qualname__}",
    }


def work_heavily() -> dict[str, Any]:
    """Use the processor for `HEAVY_SECONDS`, and hold up the loop for at least so long."""
    end = time.thread_time() + HEAVY_SECONDS
    rounds = 0
    while time.thread_time() < end:
        rounds += sum(range(1000)) > 0
    return {"heavy": rounds > 0}


def where() -> str:
    """What `/where` answers: the process and the thread, and so the loop, that runs this."""
    return f"{os.getpid()} {threading.get_native_id()}"


def be_stuck() -> None:
    """From now on, block the running loop for `STUCK_SECONDS` in every `STUCK_PERIOD`.

    All loops that do so are stuck at the same time, also those of other processes.
    """
    loop = asyncio.get_running_loop()

    def block() -> None:
        begun = time.monotonic() % STUCK_PERIOD
        if begun < STUCK_SECONDS:
            time.sleep(STUCK_SECONDS - begun)
        loop.call_later(STUCK_PERIOD - time.monotonic() % STUCK_PERIOD, block)

    loop.call_soon(block)


async def query() -> dict[str, Any]:
    """Read a row by its key, over a connection of the loop's own pool."""
    pool = await _pool()
    row = await pool.fetchrow(QUERY, ROW)
    return dict(row)


async def _pool() -> Any:
    """The pool of the running loop, which the first one to ask makes."""
    loop = asyncio.get_running_loop()
    making = _pools.get(loop)
    if making is None:
        making = _pools[loop] = asyncio.ensure_future(_make_pool())
    return await asyncio.shield(making)


async def _make_pool() -> Any:
    import asyncpg

    count = int(os.environ["BENCH_DATABASE_CONNECTIONS"])
    url = os.environ["BENCH_DATABASE"]
    return await asyncpg.create_pool(url, min_size=count, max_size=count)
