"""Skew: one heavy client among light ones. Do the light ones feel it?

    python examples/load/skew.py [--connections LIGHT] [--rate R] [--heavy-kib K] [--depth N]

Light clients make small requests at a fixed rate throughout. In the second half one more client
sends large ones as fast as it can, several under way at a time. Its loop has far more to do than
the others; in a pool, idle threads take over a part of its socket work.

The exit code is 0 if every byte was right and the p99 of the light
ones beside it is within the limit, 1 if not, 2 if an option is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque

from _client import Failures, Load, light
from _common import Test, Trial, run
from _plot import Panel, Plot, Series
from _server import echo
from _timeline import Timeline, milliseconds, show_table
from load_test_client import bounded_int


async def heavy(load: Load) -> None:
    """Keep so many large requests under way on one connection until the load is over."""
    number = load.plan["number"]
    with Failures(load, number):
        connection = await load.connect(number, limit=4 * load.requests.size)
        try:
            under_way: deque[tuple[bytes, float]] = deque()
            while under_way or not load.ended.is_set():
                while len(under_way) < load.plan["depth"] and not load.ended.is_set():
                    under_way.append((connection.send(), time.monotonic()))
                expected, begin = under_way.popleft()
                await connection.receive(expected)
                load.record("", time.monotonic() - begin)
        finally:
            await connection.close()


def conduct(trial: Trial) -> Plot:
    """Measure the light clients alone, then beside the heavy one."""
    options = trial.options
    half = options.seconds / 2
    clients = trial.start_shared("light", options.connections, rate=options.rate)
    trial.connected(clients, options.connections)
    times = Timeline(clients, options.seconds)

    def look(now: float) -> str:
        times.look(now)
        light = times.groups[""]
        return (
            f"{now:.0f} s of {options.seconds:g}: {light.total():,} light replies,"
            f" p99 {milliseconds(light, 0.99):.2f} ms"
        )

    trial.watch(half, look)
    large = trial.start(
        "heavy", number=options.connections, depth=options.depth, size=1024 * options.heavy_kib
    )
    trial.wait(lambda: large.replies > 0, 30.0, "the heavy client")
    alone = times.restart()[""]
    mark = large.mark()
    trial.watch(half, lambda elapsed: look(half + elapsed))
    beside = times.groups[""]
    rate = large.rate_since(mark)
    # While the heavy client goes on, so that those who wait longest are counted as well.
    trial.finish(clients)
    times.look(options.seconds)
    trial.screen.clear()
    show_table([("light, alone", alone), ("light, beside heavy", beside)])
    print(f"heavy: {rate:,.0f} requests/s, {rate * options.heavy_kib / 1024:,.1f} MiB/s each way")
    trial.check_latency("light clients beside the heavy one", beside)
    return Plot(
        f"{options.connections} light clients, and a heavy one in the second half",
        "seconds",
        [
            Panel(
                "latency of the light clients, ms",
                [Series("p50", times.p50[""]), Series("p99", times.p99[""])],
                limit=options.limit_ms,
                logarithmic=True,
            )
        ],
        shaded=[(half, options.seconds, "a heavy client as well")],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this test has."""
    parser.add_argument(
        "--rate", type=bounded_int(1, 1000), default=20, help="requests/s of each light client"
    )
    parser.add_argument(
        "--heavy-kib",
        type=bounded_int(1, 1024),
        default=64,
        help="size of the heavy client's requests in KiB (default: %(default)s)",
    )
    parser.add_argument(
        "--depth",
        type=bounded_int(1, 64),
        default=8,
        help="heavy requests under way at a time (default: %(default)s)",
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo],
        {"light": light, "heavy": heavy},
        conduct,
        connections=50,
        seconds=10.0,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
