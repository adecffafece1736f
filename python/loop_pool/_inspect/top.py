"""``loop-pool top PID``: shows a running pool live. The screen is in ``top_screen``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from typing import Any

from .client import InspectError, pools, read
from .ps import add_target
from .top_help import LEAST, MOST

INTERVAL = 1.0
"""Seconds between two readings, unless the user wants others."""


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``argparse`` calls subparsers."""
    parser = subparsers.add_parser(
        "top",
        help="watch the loops and tasks of a running pool",
        description="Watch what each loop of a running pool is doing, and the tasks of one. "
        "The pool must have been started with LOOP_POOL_INSPECT=1 in the environment, or by "
        "loop_pool.run(..., inspect=True). Needs the extra: pip install 'loop_pool[cli]'.",
    )
    add_target(parser)
    parser.add_argument(
        "--interval",
        metavar="S",
        type=_interval,
        default=INTERVAL,
        help=f"refresh interval in seconds (default: {INTERVAL:g})",
    )
    parser.set_defaults(func=run)


def _interval(text: str) -> float:
    with contextlib.suppress(ValueError):
        if LEAST <= (seconds := float(text)) <= MOST:
            return seconds
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of seconds from {LEAST:g} to {MOST:g}"
    )


def run(args: argparse.Namespace) -> int:
    """Show it until the user leaves.

    Returns:
        The exit code: 0, or 1 if it could not be shown, or if the pool could not be read any more
        when the user left; 130 after Ctrl-C.
    """
    try:
        from .top_screen import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"rich", "textual"}:
            raise
        return _fail(f"top needs textual: pip install 'loop_pool[cli]' ({error})")
    # textual writes to standard error.
    if not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return _fail("top needs a terminal; use loop-pool ps to print the state once")
    try:
        numbers = pools(args.pid)
        pool = args.pool if args.pool is not None or not numbers else numbers[0]
        read(args.pid, "stats", pool=pool)
    except InspectError as error:
        return _fail(str(error))
    others = " and ".join(f"--pool {number}" for number in numbers if number != pool)
    note = f"pool {pool}, others by {others}; " if others else ""
    top = Top(args.pid, args.interval, functools.partial(read, pool=pool), note)
    left_by = top.run()
    if top.trouble:
        _fail(top.trouble)
    return left_by or top.return_code or (1 if top.trouble else 0)


def _fail(message: str) -> int:
    sys.stderr.write(f"loop-pool: {message}\n")
    return 1
