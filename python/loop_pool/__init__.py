"""asyncio on all cores of a free-threaded CPython.

``loop_pool.run(main())`` replaces ``asyncio.run(main())`` and starts one event loop per core.
``loop_pool.new_event_loop`` creates a single loop, for any API that accepts a ``loop_factory``.
"""

from ._loop import fork as _fork  # noqa: F401 - it sets hooks

# isort: split
from ._core import __version__
from ._inspect import switch as _switch  # noqa: F401 - it lets pools be inspected
from ._loop.event_loop import EventLoop, new_event_loop
from ._loop.streams import open_connection
from ._loop.task_registry import (
    _enter_task,
    _leave_task,
    _register_task,
    _unregister_task,
    all_tasks,
    current_task,
)
from ._pool.aggregate import as_completed, broadcast, call, gather, map  # noqa: A004
from ._pool.executor import PoolExecutor, submit
from ._pool.loop_local import LoopLocal
from ._pool.pool import LoopStats, Pool, current_pool
from ._pool.runner import Runner, run
from ._pool.server import Server, create_server, start_server
from ._pool.spawn import PoolTask, spawn
from ._pool.stuck import StuckLoop
from ._pool.task_group import TaskGroup
from ._serve.plan import StartupError
from ._serve.serve import serve

__all__ = [
    "EventLoop",
    "LoopLocal",
    "LoopStats",
    "Pool",
    "PoolExecutor",
    "PoolTask",
    "Runner",
    "Server",
    "StartupError",
    "StuckLoop",
    "TaskGroup",
    "__version__",
    "_enter_task",
    "_leave_task",
    "_register_task",
    "_unregister_task",
    "all_tasks",
    "as_completed",
    "broadcast",
    "call",
    "create_server",
    "current_pool",
    "current_task",
    "gather",
    "map",
    "new_event_loop",
    "open_connection",
    "run",
    "serve",
    "spawn",
    "start_server",
    "submit",
]
