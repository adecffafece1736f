"""``loop-pool ps PID``: prints the loops and tasks of a running pool once."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from .client import InspectError, Loop, Node, Rates, Reading, Task, pools, read, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BETWEEN = 0.25
"""Seconds between the two readings from which the rates come."""


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``argparse`` calls subparsers."""
    parser = subparsers.add_parser(
        "ps",
        help="show the loops and tasks of a running pool",
        description="Show what each loop of a running pool is doing, and its tasks as a tree: "
        "below each task, the tasks that it awaits. The pool must have been started with "
        "LOOP_POOL_INSPECT=1 in the environment, or by loop_pool.run(..., inspect=True).",
    )
    add_target(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--stacks", action="store_true", help="show the stack of each task")
    parser.set_defaults(func=run)


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which pool a command is about."""
    parser.add_argument("pid", metavar="PID", type=process_number, help="process ID of the pool")
    parser.add_argument(
        "--pool",
        metavar="N",
        type=int,
        help="number of the pool in a process with several (from 1)",
    )


def process_number(text: str) -> int:
    """Return a process number that a user has given.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    with contextlib.suppress(ValueError):
        if (pid := int(text)) > 0:
            return pid
    raise argparse.ArgumentTypeError(f"{text!r} is not a process ID")


def run(args: argparse.Namespace) -> int:
    """Print it; return the exit code."""
    try:
        numbers = pools(args.pid)
        pool = args.pool if args.pool is not None or not numbers else numbers[0]
        first = read(args.pid, "stats", pool=pool)
        time.sleep(BETWEEN)
        reading = read(args.pid, "snapshot", pool=pool)
    except InspectError as error:
        print(f"loop-pool: {error}", file=sys.stderr)
        return 1
    rates = reading.rates(first)
    try:
        if args.json:
            print(json.dumps(as_json(reading, rates), indent=2))
        elif sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
            from rich.console import Console

            print_rich(Console(), reading, rates, stacks=args.stacks)
        else:
            with contextlib.suppress(AttributeError, ValueError):
                sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            for line in plain(reading, rates, stacks=args.stacks):
                print(line)
        sys.stdout.flush()
        if args.pool is None and len(numbers) > 1:
            others = " and ".join(f"--pool {number}" for number in numbers[1:])
            print(
                f"loop-pool: showing pool {pool}; for the others of this process use {others}",
                file=sys.stderr,
            )
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def as_json(reading: Reading, rates: dict[int, Rates]) -> dict[str, Any]:
    """Return what is known as an object for JSON. Every name in it stays as long as its version."""
    return {
        "version": 1,
        "pid": reading.pid,
        "loop_pool": reading.loop_pool,
        "python": reading.python,
        "gil": reading.gil,
        "uptime": reading.uptime,
        "loops": [
            {
                **dataclasses.asdict(loop),
                "callbacks_per_second": rates[loop.index].callbacks
                if loop.index in rates
                else None,
                "busy_share": rates[loop.index].busy if loop.index in rates else None,
            }
            for loop in reading.loops
        ],
        "tasks": [dataclasses.asdict(task) for task in reading.tasks],
    }


# -- words for it, which `top` uses as well --------------------------------------------------------


def title(reading: Reading) -> str:
    """Say in a line which pool it is."""
    kind = "with the GIL" if reading.gil else "free-threaded"
    return (
        f"process {reading.pid}, {_count(len(reading.loops), 'loop')}, "
        f"up {duration(reading.uptime)}: loop_pool {reading.loop_pool}, "
        f"Python {reading.python} {kind}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write a time in three or four characters and a unit."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02} min"
    return f"{minutes // 60}:{minutes % 60:02} h"


def state_of(loop: Loop) -> str:
    """Say how a loop is."""
    if not loop.running:
        return "not running"
    if loop.stuck:
        return f"stuck {duration(loop.stuck)}"
    return "ok"


COLUMNS: dict[str, Callable[[Loop, Rates | None], tuple[str, float | str]]] = {
    "loop": lambda loop, _: (loop.name, loop.index),
    "state": lambda loop, _: (state_of(loop), loop.stuck),
    "busy": lambda _, rates: _rate(rates and rates.busy, lambda busy: f"{busy:.0%}"),
    "lag": lambda loop, _: _rate(loop.lag, duration),
    "callbacks/s": lambda _, rates: _rate(rates and rates.callbacks, lambda rate: f"{rate:,.0f}"),
    "ready": lambda loop, _: (f"{loop.ready:,}", loop.ready),
    "timers": lambda loop, _: (f"{loop.timers:,}", loop.timers),
    "fds": lambda loop, _: (f"{loop.descriptors:,}", loop.descriptors),
    "transports": lambda loop, _: (f"{loop.transports:,}", loop.transports),
    "stole": lambda loop, _: (f"{loop.stolen_by:,}", loop.stolen_by),
    "stolen": lambda loop, _: (f"{loop.stolen_from:,}", loop.stolen_from),
    "handoffs": lambda loop, _: (f"{loop.handoffs:,}", loop.handoffs),
    "thread": lambda loop, _: (str(loop.thread or "-"), loop.thread or 0),
    "task": lambda loop, _: (loop.task or "-", loop.task or ""),
}
"""The columns of the table of loops: what to show, and what to sort by."""

LEFT = {"loop", "state", "task"}
"""Columns of words; the others are numbers."""


def _rate(value: float | None, show: Callable[[float], str]) -> tuple[str, float]:
    return ("-", -1.0) if value is None else (show(value), value)


def task_line(task: Task, loops: dict[int, str]) -> str:
    """Say in a line what a task is and does."""
    where = loops.get(task.loop, "?")
    return f"{task.name}  [{where}, {duration(task.age)}]  {task.coro}: {task.state}"


def branch(node: Node) -> str:
    """Draw the lines from a node's root to it."""
    if not node.last:
        return ""
    above = "".join("   " if last else "│  " for last in node.last[:-1])
    return above + ("└─ " if node.last[-1] else "├─ ")


def below(node: Node) -> str:
    """Draw the lines that pass what is written under a node."""
    return "".join("   " if last else "│  " for last in node.last) + ("   " if node.leaf else "│  ")


# -- plain -----------------------------------------------------------------------------------------


def plain(reading: Reading, rates: dict[int, Rates], *, stacks: bool) -> Iterator[str]:
    """Yield the lines of it."""
    yield title(reading)
    yield ""
    rows = [list(COLUMNS)]
    for loop in reading.loops:
        rows.append([cell(loop, rates.get(loop.index))[0] for cell in COLUMNS.values()])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.ljust(width) if name in LEFT else text.rjust(width)
            for name, text, width in zip(COLUMNS, row, widths, strict=True)
        )
        yield "  ".join(cells).rstrip()
    yield from _held_up(reading)
    yield ""
    yield _count(len(reading.tasks), "task")
    loops = {loop.index: loop.name for loop in reading.loops}
    for node in tree(reading.tasks):
        again = "  (see above)" if node.seen else ""
        yield f"{branch(node)}{task_line(node.task, loops)}{again}"
        if stacks and not node.seen:
            for frame in node.task.stack:
                yield f"{below(node)}  {frame}"
    yield from _omitted(reading)


def _held_up(reading: Reading) -> Iterator[str]:
    for loop in reading.loops:
        if loop.stack:
            yield ""
            yield f"{loop.name} has been inside this for {duration(loop.stuck)}:"
            for frame in loop.stack:
                yield f"    {frame}"


def _omitted(reading: Reading) -> Iterator[str]:
    for loop in reading.loops:
        if loop.omitted:
            yield f"and {_count(loop.omitted, 'more task')} of {loop.name}"


# -- rich ------------------------------------------------------------------------------------------


def print_rich(console: Any, reading: Reading, rates: dict[int, Rates], *, stacks: bool) -> None:
    """Print it with colours, to a ``rich.console.Console``."""
    from rich.table import Table
    from rich.text import Text

    console.print(Text(title(reading), style="bold"))
    table = Table(box=None, header_style="bold cyan", pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for loop in reading.loops:
        cells = (show(loop, rates.get(loop.index))[0] for show in COLUMNS.values())
        style = "bold red" if loop.stuck else "dim" if not loop.running else ""
        table.add_row(*(Text(text) for text in cells), style=style)
    console.print(table)
    for line in _held_up(reading):
        console.print(Text(line, style="red"))
    console.print()
    console.print(Text(_count(len(reading.tasks), "task"), style="bold"))
    loops = {loop.index: loop.name for loop in reading.loops}
    for node in tree(reading.tasks):
        task = node.task
        label = Text.assemble(
            (branch(node), "dim"),
            (task.name, "bold"),
            (f"  [{loops.get(task.loop, '?')}, {duration(task.age)}]  ", "dim"),
            task.coro,
            ": ",
            (task.state, STYLES.get(task.state.partition(" ")[0], "")),
            ("  (see above)" if node.seen else "", "dim"),
        )
        console.print(label, soft_wrap=True)
        if stacks and not node.seen:
            for frame in task.stack:
                console.print(Text(f"{below(node)}  {frame}", style="dim"), soft_wrap=True)
    for more in _omitted(reading):
        console.print(Text(more, style="dim"))


STYLES = {"running": "bold red", "ready": "yellow", "waiting": "green", "pending": "dim"}
"""How the states of tasks look."""
