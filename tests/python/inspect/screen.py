"""What the tests of `loop-pool top` share: a fake pool, and what a person does."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from ..support import HANG

pytest.importorskip("loop_pool")
pytest.importorskip("textual", reason="the extra cli is not installed")
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from loop_pool._inspect import top_screen
from loop_pool._inspect.client import InspectError, Loop, Reading, Task

PID = 4711

SIZE = (200, 45)

LOOP = Loop(
    index=0,
    name="loop-pool-0",
    thread=100,
    running=True,
    lag=0.0001,
    stuck=0.0,
    task=None,
    ready=0,
    timers=0,
    descriptors=0,
    transports=0,
    callbacks=0,
    busy=0.0,
    idle=0.0,
    stolen_by=0,
    stolen_from=0,
    handoffs=0,
    omitted=0,
    stack=(),
)

TASK = Task(
    id=1,
    name="first",
    loop=0,
    state="waiting on Future in pause",
    age=1.0,
    origin="spawn",
    coro="work",
    stack=("/srv/app.py:3 work", "/srv/app.py:9 pause"),
    awaited_by=(),
)


class FakePool:
    """Answers as a pool does, and notes what it was asked."""

    def __init__(self, loops: int = 3) -> None:
        self.loops = [
            dataclasses.replace(LOOP, index=index, name=f"loop-pool-{index}")
            for index in range(loops)
        ]
        self.tasks = [TASK]
        self.error: InspectError | None = None
        self.cost = 0.0
        self.uptime = 5.0
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.gate = threading.Event()
        """Nothing is answered before it is set."""
        self.gate.set()

    def ask(self, pid: int, request: str, *, timeout: float, **arguments: int) -> Reading:
        assert pid == PID
        self.asked.append((request, arguments))
        self.gate.wait(HANG)
        if self.error is not None:
            raise self.error
        self.uptime += 1.0
        loop = arguments.get("loop")
        if loop is not None and loop >= len(self.loops):
            raise InspectError(f"process {pid} refused: there is no loop {loop}")
        return Reading(
            pid=pid,
            loop_pool="0.1.0",
            python="3.14.9",
            gil=False,
            time=self.uptime,
            uptime=self.uptime,
            loops=tuple(self.loops),
            tasks=tuple(task for task in self.tasks if task.loop == loop),
            cost=self.cost,
        )

    def has_told(self, index: int) -> bool:
        """Whether it was asked for the tasks of a loop."""
        return any(arguments.get("loop") == index for _, arguments in self.asked)

    def change(self, index: int, **fields: Any) -> None:
        """Let a loop be in another state from the next reading on."""
        self.loops[index] = dataclasses.replace(self.loops[index], **fields)


class Screen:
    """What a person sees, and what they press."""

    def __init__(self, app: top_screen.Top, pilot: Pilot[int]) -> None:
        self.app = app
        self.press = pilot.press
        self.pilot = pilot

    def text(self, name: str) -> str:
        return str(self.app.screen_stack[0].query_one(f"#{name}", Static).content)

    def picture(self) -> str:
        """The whole screen as an image that is text."""
        return self.app.export_screenshot()

    def table(self, name: str) -> DataTable[Any]:
        return self.app.screen_stack[0].query_one(f"#{name}", DataTable)

    def column(self, table: str, name: str) -> list[str]:
        """The cells of a column, from the top."""
        it = self.table(table)
        return [it.get_cell(row.key, name).plain for row in it.ordered_rows]

    def selected(self, table: str, name: str) -> str:
        return self.column(table, name)[self.table(table).cursor_row]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + HANG
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {HANG} s"
            await self.pilot.pause(0.01)

    async def until_read(self, pool: FakePool, times: int = 3) -> None:
        """Wait until so many readings have begun from here on, all but the last being shown."""
        goal = len(pool.asked) + times
        await self.until(lambda: len(pool.asked) >= goal, "a reading")


@contextlib.asynccontextmanager
async def shown(
    ask: Callable[..., Reading], pid: int = PID, interval: float = 0.05, size: Any = SIZE
) -> AsyncIterator[Screen]:
    app = top_screen.Top(pid, interval, ask)
    async with app.run_test(size=size) as pilot:
        screen = Screen(app, pilot)
        yield screen


def runs(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test out of a coroutine function that takes a fake pool."""

    def run() -> None:
        asyncio.run(test(FakePool()))

    run.__name__ = test.__name__
    return run
