"""The queues of :mod:`loop_pool.sync`: those of culsans, with asyncio's names.

Only that module imports this one, once it has seen that culsans is there.
"""

from __future__ import annotations

from typing import Any

import culsans


class Queue[T](culsans.Queue[T]):
    """A queue, first in, first out. As ``asyncio.Queue``, ``shutdown`` included.

    It differs from asyncio's in that it has a length: an empty one is false. Exceptions are those
    of both modules: :exc:`QueueEmpty` is ``asyncio.QueueEmpty`` and ``queue.Empty``, and so on.

    For threads: ``green_put(item, block=True, timeout=None)``, ``green_get(block=True,
    timeout=None)``, ``green_join()``, as of ``queue.Queue``; ``sync_q`` is a view of the queue
    with that module's names. The others are the same for tasks and threads. Any thread.

    Args:
        maxsize: how many items there may be; 0 or less: no limit.
    """

    __slots__ = ()

    async def put(self, item: T) -> None:
        """Wait until there is room, and put ``item`` in. As ``asyncio.Queue.put``.

        Raises:
            QueueShutDown: the queue is, or was meanwhile, shut down.
        """
        await self.async_put(item)

    async def get(self) -> T:
        """Wait for an item, and take it out. As ``asyncio.Queue.get``.

        Raises:
            QueueShutDown: the queue is, or was meanwhile, shut down, and it is empty.
        """
        return await self.async_get()

    async def join(self) -> None:
        """Wait until ``task_done`` was called for each item. As ``asyncio.Queue.join``."""
        await self.async_join()


class LifoQueue[T](culsans.LifoQueue[T], Queue[T]):
    """A :class:`Queue`, last in, first out. As ``asyncio.LifoQueue``. Any thread."""

    __slots__ = ()


class PriorityQueue[T: Any](culsans.PriorityQueue[T], Queue[T]):
    """A :class:`Queue`, least item first out. As ``asyncio.PriorityQueue``. Any thread."""

    __slots__ = ()
