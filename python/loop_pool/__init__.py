"""All cores for an unmodified asyncio program on free-threaded Python.

``loop_pool.run(main())`` is ``asyncio.run(main())`` with one event loop per core beside it.
``loop_pool.new_event_loop`` is a single loop, for anything that takes a ``loop_factory``.
"""

from . import _fork as _fork
from ._bulk import as_completed, broadcast, call, gather, map  # noqa: A004
from ._core import __version__
from ._event_loop import EventLoop, new_event_loop
from ._executor import PoolExecutor, submit
from ._groups import TaskGroup
from ._local import LoopLocal
from ._pool import LoopStats, Pool, current_pool
from ._registry import (
    _enter_task,
    _leave_task,
    _register_task,
    _unregister_task,
    all_tasks,
    current_task,
)
from ._runner import Runner, run
from ._serve import serve
from ._serve_plan import StartupError
from ._server import Server, create_server, start_server
from ._streams import open_connection
from ._stuck import StuckLoop
from ._task import PoolTask, spawn

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
