"""Samples of what asyncio's C ``Task`` passes to ``call_soon``, so that the core recognises it.

``TaskStepMethWrapper`` and ``task_wakeup`` of ``_asyncio`` have no names in Python.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from typing import TYPE_CHECKING, Any

from .. import _core

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator


def learn_task_callbacks() -> None:
    """Show the core what the C ``Task`` passes to ``call_soon``, by running one on a fake loop.

    If a Python version changes it, tasks are run through handles like any callback: slower, and
    right.
    """

    class Recorder:
        """As much of a loop as a task needs."""

        def __init__(self) -> None:
            self.posted: list[tuple[Callable[..., object], tuple[object, ...]]] = []

        def call_soon(
            self,
            callback: Callable[..., object],
            *args: object,
            context: contextvars.Context | None = None,
        ) -> None:
            self.posted.append((callback, args))

        def get_debug(self) -> bool:
            return False

    class NoFuture:
        def __await__(self) -> Generator[Any]:
            yield 0

    async def wait_for(future: asyncio.Future[None]) -> None:
        await future

    async def fail() -> None:
        await NoFuture()

    recorder: Any = Recorder()
    running = events._get_running_loop()
    current = asyncio.current_task(running) if running is not None else None
    if current is not None:
        asyncio._leave_task(running, current)  # type: ignore[arg-type]
    events._set_running_loop(recorder)
    try:
        future: asyncio.Future[None] = asyncio.Future(loop=recorder)
        future_iterator = type(future.__await__())
        name = " ".join(["a name that", "nothing else has"])
        task = asyncio.Task(wait_for(future), loop=recorder, name=name)
        (step, _) = recorder.posted.pop()
        step()
        future.set_result(None)
        (wakeup, args) = recorder.posted.pop()
        wakeup(*args)
        task.result()
        failed = asyncio.Task(fail(), loop=recorder)
        recorder.posted.pop()[0]()
        (failing, _) = recorder.posted.pop()
        failing()
        error = failed.exception()
    finally:
        events._set_running_loop(running)
        if current is not None:
            asyncio._enter_task(running, current)  # type: ignore[arg-type]
    _core._learn_task_callbacks(step, wakeup, task, name, task.done, failing, error)
    _core._stop_counting(asyncio.Task, asyncio.Future, type(step), future_iterator)
