"""What the tests about stuck loops share."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import loop_pool
from loop_pool import StuckLoop

from ..support import HANG, wait_for

LIMIT = 0.02
"""Seconds that a callback may take in most of these tests."""

RARELY = 1.0
"""Seconds that a callback may take where nothing is to be told of, however slow the machine."""

WATCH = "loop-pool-watch"

CULPRIT = "coroutine get_stuck"
"""How the log names the coroutines that get stuck in these tests."""

BEGUN = "has been inside one callback for"
ENDED = "was inside one callback for"


class Records(logging.Handler):
    """Keeps what the pool logs, and lets other threads wait for it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.records.append(record)

    def about(self, what: str, name: str = "loop-pool-", of: str = CULPRIT) -> list[str]:
        """The messages of one kind about one loop, or about all.

        `of`: what they name. On a machine that has much else to do, any callback may take long.
        """
        messages = [record.getMessage() for record in self.records]
        return [each for each in messages if each.startswith(name) and what in each and of in each]

    def wait(self, what: str, name: str = "loop-pool-", count: int = 1, of: str = CULPRIT) -> str:
        """Blocks until there are so many such messages; the last of them."""
        wait_for(lambda: len(self.about(what, name, of)) >= count, f"{count} x {what!r} of {name}")
        return self.about(what, name, of)[count - 1]


def spawn_on[T](index: int, coro: Coroutine[Any, Any, T], name: str | None = None) -> Any:
    """Starts a coroutine on one of the loops."""
    return loop_pool.spawn(coro, loop=loop_pool.current_pool().loops[index], name=name)


def watchers() -> list[threading.Thread]:
    """The reporting threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == WATCH]


def native_threads(name: str) -> int:
    """How many threads the kernel knows by that name, which it cuts to 15 bytes (Linux)."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count(name[:15])


def is_about(incident: StuckLoop, name: str = "get_stuck") -> bool:
    """Whether it is inside the coroutine, and not something else that took long."""
    return [frame.name for frame in incident.task_stack[:1]] == [name]


class Heard:
    """Registers with the running pool and keeps what it is told of a coroutine."""

    def __init__(self, name: str = "get_stuck") -> None:
        self.incidents: queue.SimpleQueue[StuckLoop] = queue.SimpleQueue()
        self._name = name
        self.unregister = loop_pool.current_pool().on_stuck(self.note)

    def note(self, incident: StuckLoop) -> None:
        """What is called."""
        if is_about(incident, self._name):
            self.incidents.put(incident)

    def next(self) -> StuckLoop:
        """Blocks until the next one comes."""
        return self.incidents.get(timeout=HANG)
