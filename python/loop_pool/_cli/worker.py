"""``loop-pool worker module:broker``: a taskiq worker with a receiver on each loop of a pool.

Options have the names and meanings of ``taskiq worker``; limits per worker process
(``--max-async-tasks``) apply per loop here. taskiq is imported only to run: ``_worker.brokers``
creates the brokers, ``_worker.pool`` runs the pool.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import sys
from typing import TYPE_CHECKING

from .. import _core

if TYPE_CHECKING:
    from collections.abc import Callable

    from .subcommand import Subparsers

FAILED, USAGE = 1, 2
"""Exit codes: something failed, or a task did not end in time; it was not asked properly."""

MOST_LOOPS = 4096

WAIT_TASKS_TIMEOUT = 30.0
"""Seconds that the tasks under way get to end in, unless the user wants others."""

SHUTDOWN_TIMEOUT = 5.0
"""Seconds that the broker of a loop gets to close in, unless the user wants others."""

LOG_FORMAT = "[%(asctime)s][%(name)s][%(levelname)-7s][%(threadName)s] %(message)s"

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

ACK_TYPES = ("when_received", "when_executed", "when_saved", "manual")


def add_parser(subparsers: Subparsers) -> None:
    """Add ``worker`` to the command."""
    parser = subparsers.add_parser(
        "worker",
        help="run a taskiq worker on all loops",
        description="Run a taskiq worker with a receiver on each loop. Needs the extra: "
        "pip install 'loop_pool[distributed]'.",
    )
    add = parser.add_argument
    add(
        "target",
        metavar="module:broker",
        help="a taskiq broker, copied for each loop, or a function that returns one",
    )
    add("modules", nargs="*", metavar="module", help="modules with tasks to import")
    add(
        "--loops",
        metavar="N",
        type=_whole(1, MOST_LOOPS),
        help="number of loops, each in its own thread (default: one per core)",
    )
    add("--app-dir", "-d", metavar="DIR", default=".", help="directory to import modules from")
    add(
        "--fs-discover",
        "-fsd",
        action="store_true",
        help="import every module below the current directory that --tasks-pattern matches",
    )
    add(
        "--tasks-pattern",
        "-tp",
        metavar="GLOB",
        action="append",
        help="file pattern for --fs-discover; may be repeated (default: **/tasks.py)",
    )
    add(
        "--max-async-tasks",
        metavar="N",
        type=_whole(1),
        default=100,
        help="concurrent tasks on each loop (default: %(default)s)",
    )
    add(
        "--max-prefetch",
        metavar="N",
        type=_whole(0),
        default=0,
        help="tasks that each loop prefetches beyond those (default: %(default)s)",
    )
    add(
        "--max-threadpool-threads",
        metavar="N",
        type=_whole(1),
        help="threads for synchronous tasks, shared by all loops (default: Python's)",
    )
    add(
        "--ack-type",
        choices=ACK_TYPES,
        default="when_saved",
        help="when a task is acknowledged (default: %(default)s)",
    )
    add("--no-parse", action="store_true", help="do not convert parameters by their annotations")
    add(
        "--no-propagate-errors",
        action="store_true",
        help="do not raise a task's exception in its dependencies",
    )
    add(
        "--wait-tasks-timeout",
        metavar="S",
        type=_seconds,
        default=WAIT_TASKS_TIMEOUT,
        help="seconds to wait for running tasks after SIGTERM or Ctrl-C "
        "(default: %(default)g; inf: no limit)",
    )
    add(
        "--shutdown-timeout",
        metavar="S",
        type=_seconds,
        default=SHUTDOWN_TIMEOUT,
        help="seconds to wait for each broker to close (default: %(default)g)",
    )
    add(
        "--log-level",
        metavar="LEVEL",
        choices=LOG_LEVELS,
        default="INFO",
        help=f"one of {', '.join(LOG_LEVELS)} (default: %(default)s)",
    )
    add(
        "--log-format",
        metavar="FORMAT",
        default=LOG_FORMAT,
        help="format of log lines, as for logging.Formatter",
    )
    add(
        "--no-configure-logging",
        action="store_true",
        help="do not configure logging",
    )
    parser.set_defaults(func=run)


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    limits = f"from {least} to {most}" if most is not None else f"of at least {least}"

    def number(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := int(text)) and (most is None or value <= most):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer {limits}")

    return number


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")


def run(args: argparse.Namespace) -> int:
    """Receive and run tasks until a signal comes. Main thread.

    Returns:
        The exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 if something failed or a task did not
        end in time, 2 if the broker or a module of tasks cannot be had.
    """
    try:
        from .._worker.brokers import FactoryError, TargetError, load
        from .._worker.pool import Settings, Worker
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "taskiq":
            raise
        return _fail(f"worker needs taskiq: pip install 'loop_pool[distributed]' ({error})")
    if not args.no_configure_logging:
        logging.basicConfig(level=args.log_level, format=args.log_format)
        logging.getLogger("taskiq").setLevel(args.log_level)
    loops = _core._loop_count(args.loops)
    try:
        brokers = load(
            args.target,
            loops,
            modules=args.modules,
            app_dir=args.app_dir,
            patterns=(args.tasks_pattern or ["**/tasks.py"]) if args.fs_discover else [],
        )
    except TargetError as error:
        return _fail(str(error), FAILED if isinstance(error, FactoryError) else USAGE)
    wait = args.wait_tasks_timeout
    close = args.shutdown_timeout
    settings = Settings(
        ack_type=args.ack_type,
        max_async_tasks=args.max_async_tasks,
        max_prefetch=args.max_prefetch,
        max_threads=args.max_threadpool_threads,
        parse=not args.no_parse,
        propagate_errors=not args.no_propagate_errors,
        wait_tasks_timeout=None if math.isinf(wait) else wait,
        shutdown_timeout=None if math.isinf(close) else close,
    )
    return Worker(args.target, brokers, settings).run()


def _fail(message: str, code: int = FAILED) -> int:
    print(f"loop-pool: {message}", file=sys.stderr)
    return code
