"""Loops of the parent in a forked child.

Parent and child share every socket and the epoll instance of each loop, so changes in the child
would affect the parent. The child therefore leaves them alone and only closes its copies. A loop
that no other thread was running gets a new reactor: the child may run it, with its tasks and
timers, and receives events for descriptors that it registers again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .. import _core
from . import asyncio_private
from .event_loop import open_loops

if TYPE_CHECKING:
    from .event_loop import EventLoop


def _leave_all_to_the_parent() -> None:
    for loop in open_loops():
        _leave_to_the_parent(loop)


def _leave_to_the_parent(loop: EventLoop) -> None:
    may_run = loop._pool is None and not asyncio_private.runs_elsewhere(loop)
    asyncio_private.forget_unix_sockets(loop)
    _core._after_fork_in_child(loop, may_run)
    if may_run:
        asyncio_private.make_new_self_pipe(loop)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_the_parent)
