"""Stuck: one loop is blocked for 50 ms in every 100. What do the others' clients notice?

    python examples/load/stuck.py [--connections N] [--rate R] [--fresh R] [--block-ms MS]

Connections that are open from the begin make requests at a fixed rate; besides, new connections
come at a fixed rate, with one request each. In the second half the last loop blocks again and
again. Who is connected to that loop has to wait: nobody else can run its callbacks. Who is on
another loop should notice nothing, and new connections should go where they are served.

The exit code is 0 if every byte was right and the p99 of both is within the limit, 1 if not, 2 if
an option is wrong, 130 after Ctrl-C. Threads with a loop each on one port (`--peer`) fail for new
connections as soon as the limit is below the block: the kernel knows of no stuck loop.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time

from _client import Failures, Load
from _common import Test, Trial, run
from _plot import Panel, Plot, Series
from _timeline import Timeline, milliseconds, show_table
from load_test_client import HEADER, MAX_SIZE, bounded_int

PERIOD = 2
"""A block begins so many times `--block-ms` after the last one began."""
FRESH = "new connections"
"""The label of new connections; others have their number."""
ON_STUCK, ON_OTHERS = "open on the stuck loop", "open on other loops"
GROUPS = (ON_STUCK, ON_OTHERS, FRESH)

placed: dict[int, asyncio.AbstractEventLoop] = {}
"""Number of a connection -> the loop that serves it; written by that loop's thread."""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send every request back, and note which loop serves the connection of that number."""
    loop = asyncio.get_running_loop()
    while True:
        header = await reader.readexactly(HEADER.size)
        size, number, _ = HEADER.unpack(header)
        if size > MAX_SIZE:
            raise ValueError(f"a request of {size} bytes")
        placed[number] = loop
        writer.write(header + await reader.readexactly(size))
        await writer.drain()


async def bystand(load: Load) -> None:
    """Make requests at a fixed rate on open connections, and on new ones."""
    first, count, step = load.plan["numbers"]
    every = 1 / load.plan["rate"]
    begin = time.monotonic()
    for number in range(first, count, step):
        load.start(load.keep_paced(number, str(number), every, begin + every * number / count))
    if fresh := load.plan["fresh"]:
        load.start(come_and_go(load, count, step / fresh, begin + first / fresh))


async def come_and_go(load: Load, number: int, every: float, due: float) -> None:
    """Open connections at a fixed rate, each for one request."""
    while await load.until(due):
        load.start(ask_once(load, number, due))
        due += every


async def ask_once(load: Load, number: int, due: float) -> None:
    """Connect, make one request, and close."""
    with Failures(load, number):
        connection = await load.connect(number)
        try:
            await connection.request(FRESH, due)
        finally:
            await connection.close()


class Block:
    """Blocks a loop again and again, from `start` to `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Block that loop for so many seconds at a time."""
        self.blocked = threading.Event()
        """Set once it was blocked for the first time."""
        self._loop = loop
        self._seconds = seconds
        self._stopped = False

    def start(self) -> None:
        """Begin; for any thread."""
        self._loop.call_soon_threadsafe(self._block)

    def stop(self) -> None:
        """Let the loop be; for any thread."""
        self._stopped = True

    def _block(self) -> None:
        if self._stopped:
            return
        begin = time.monotonic()
        time.sleep(self._seconds)
        self.blocked.set()
        pause = PERIOD * self._seconds - (time.monotonic() - begin)
        self._loop.call_later(max(0.0, pause), self._block)


def conduct(trial: Trial) -> Plot:
    """Measure first without, then with a stuck loop."""
    options, server = trial.options, trial.server
    half = options.seconds / 2
    stuck = server.loops[-1]
    clients = trial.start_shared(
        "bystand", options.connections, rate=options.rate, fresh=options.fresh
    )
    trial.connected(clients, options.connections)

    def group(label: str) -> str:
        if label == FRESH:
            return FRESH
        return ON_STUCK if placed.get(int(label)) is stuck else ON_OTHERS

    times = Timeline(clients, options.seconds, group)

    def look(now: float) -> str:
        times.look(now)
        p99 = (f"{name} {milliseconds(times.groups[name], 0.99):.1f}" for name in GROUPS)
        return f"{now:.0f} s of {options.seconds:g}: p99 ms: {', '.join(p99)}"

    trial.watch(half, look)
    calm = times.restart()
    block = Block(stuck, options.block_ms / 1000)
    block.start()
    try:
        # New connections come to a server of which a loop has been stuck before.
        trial.wait(block.blocked.is_set, 30.0, "blocking a loop")
        times.restart()
        trial.watch(half, lambda elapsed: look(half + elapsed))
        # So that those who wait longest are counted as well.
        trial.finish(clients)
        times.look(options.seconds)
    finally:
        block.stop()
    trial.screen.clear()
    phases = {"calm": calm, "stuck": times.groups}
    show_table([(f"{when}: {name}", phases[when][name]) for when in phases for name in GROUPS])
    on_stuck = sum(placed.get(number) is stuck for number in range(options.connections))
    print(f"{on_stuck} of {options.connections} open connections are on the stuck loop")
    if on_stuck < options.connections:
        trial.check_latency(ON_OTHERS, times.groups[ON_OTHERS])
    trial.check_latency(FRESH, times.groups[FRESH])
    return Plot(
        f"One of {len(server.loops)} loops is stuck for {options.block_ms} ms at a time",
        "seconds",
        [
            Panel(
                "p99, ms",
                [Series(name, times.p99[name]) for name in GROUPS],
                limit=options.limit_ms,
                logarithmic=True,
            )
        ],
        shaded=[(half, options.seconds, "a loop is stuck half of the time")],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this test has."""
    parser.add_argument(
        "--rate", type=bounded_int(1, 1000), default=20, help="requests/s on open connections"
    )
    parser.add_argument(
        "--fresh",
        type=bounded_int(1, 10_000),
        default=100,
        help="new connections per second (default: %(default)s)",
    )
    parser.add_argument(
        "--block-ms",
        type=bounded_int(1, 1000),
        default=50,
        help="how long the loop is blocked, in every twice as long (default: %(default)s)",
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo],
        {"bystand": bystand},
        conduct,
        connections=32,
        seconds=10.0,
        limit_ms=25.0,
        least_loops=2,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
