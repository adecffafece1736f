"""Soak: steady load for as long as you like, and what grows meanwhile.

    python examples/load/soak.py --seconds 4h [--connections N] [--rate R] [--lifetime REQUESTS]

Connections make requests at a fixed rate, and are replaced after so many of them. Meanwhile the
memory of the server's process, its open descriptors and the lag of its loops (how long a callback
of another thread has to wait) are read again and again. At the end each of them is judged by its
slope (`_trend.py`), without the first fifth of the time, in which caches fill.

A growth counts as a leak if the lower end of the slope's 95 % interval, over the time measured,
is more than `--allow-mib` of memory, `--allow-descriptors`, or `--limit-ms` of lag. The verdict
also says what growth per hour such a run cannot exclude: the shorter it is, the more.

The exit code is 0 if every byte was right and nothing leaks, 1 if not, 2 if an option is wrong,
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time

from _client import Connection, Failures, Load
from _common import Client, Test, Trial, open_descriptors, resident_bytes, run
from _options import positive
from _plot import Panel, Plot, Series
from _server import echo
from _trend import find_trend
from load_test_client import bounded_int

WARM_SHARE = 0.2
"""The share of the time that is not judged."""
LEAST_READINGS = 8
"""A test that has fewer of them goes on beyond its time."""
MIB = 1 << 20

type Points = list[tuple[float, float]]


async def steady(load: Load) -> None:
    """Keep all connections at their rate; replace each after its lifetime."""
    first, count, step = load.plan["numbers"]
    every = 1 / load.plan["rate"]
    begin = time.monotonic()
    for number in range(first, count, step):
        load.start(keep(load, number, every, begin + every * number / count))


async def keep(load: Load, number: int, every: float, due: float) -> None:
    """Make requests on one connection after another."""
    lifetime = load.plan["lifetime"]
    # The first one is cut short, so that not all are replaced at the same time.
    left = 1 + number * 7_919 % lifetime
    while not load.ended.is_set():
        connection: Connection | None = None
        with Failures(load, number):
            connection = await load.connect(number)
            while left and await load.until(due):
                await connection.request("", due)
                due += every
                left -= 1
        if connection is None:
            return  # The failure is counted.
        await connection.close()
        if left and not load.ended.is_set():
            return
        left = lifetime


class Readings:
    """What is read of the server's process, with the seconds since the begin."""

    def __init__(self, trial: Trial, clients: list[Client]) -> None:
        """Begin."""
        self.memory: Points = []
        self.descriptors: Points = []
        self.lag: Points = []
        self._trial = trial
        self._clients = clients
        self._every = max(0.05, trial.options.seconds / 2000)
        self._due = 0.0

    def look(self, elapsed: float) -> str:
        """Read if it is time; give the line to show."""
        if elapsed >= self._due:
            self._due = elapsed + self._every
            self.memory.append((elapsed, resident_bytes() / MIB))
            self.descriptors.append((elapsed, open_descriptors()))
            self.lag.append((elapsed, 1000 * max(self._trial.server.lags())))
            for client in self._clients:
                client.take()
        replies = sum(client.replies for client in self._clients)
        return (
            f"{elapsed:,.0f} s of {self._trial.options.seconds:g}: {replies:,} replies,"
            f" {self.memory[-1][1]:.1f} MiB, {self.descriptors[-1][1]:,.0f} descriptors,"
            f" lag {self.lag[-1][1]:.2f} ms"
        )

    def enough(self) -> bool:
        """Whether they can be judged; a machine that is busy reads seldom."""
        return bool(self.memory) and len(judged(self.memory)) >= LEAST_READINGS


def judged(points: Points) -> Points:
    """The points after the time in which caches fill."""
    return [point for point in points if point[0] >= WARM_SHARE * points[-1][0]]


def judge(trial: Trial, what: str, unit: str, points: Points, allowed: float) -> None:
    """Add to the verdict whether something grows."""
    trend = find_trend(judged(points))
    if trend is None:
        trial.check(True, f"{what}: too few readings to say whether it grows")
        return
    grown = trend.low * trend.seconds
    hour = f"{3600 * trend.slope:+,.2f} {unit}/h"
    interval = f"95 %: {3600 * trend.low:+,.2f} to {3600 * trend.high:+,.2f}"
    words = f"{what}: slope {hour} ({interval})"
    if grown > allowed:
        sure = f"grows, confidence {100 * min(trend.confidence, 0.999):.1f} %"
        trial.check(
            False, f"{words}: {sure}; at least {grown:,.2f} {unit} in {trend.seconds:.0f} s"
        )
    elif trend.low > 0:
        trial.check(True, f"{words}: grows by less than the allowed {allowed:g} {unit}")
    else:
        most = max(0.0, 3600 * trend.high)
        trial.check(True, f"{words}: no growth shown; up to {most:,.2f} {unit}/h not excluded")


def conduct(trial: Trial) -> Plot:
    """Read until the time is over, then judge."""
    options = trial.options
    clients = trial.start_shared(
        "steady", options.connections, rate=options.rate, lifetime=options.lifetime
    )
    trial.connected(clients, options.connections)
    readings = Readings(trial, clients)
    trial.watch(options.seconds, readings.look, readings.enough)
    if readings.memory:
        judge(trial, "memory", "MiB", readings.memory, options.allow_mib)
        judge(trial, "descriptors", "fd", readings.descriptors, options.allow_descriptors)
        judge(trial, "lag", "ms", readings.lag, options.limit_ms)
    accepted = sum(counts.accepted for counts in trial.server.counts.values())
    print(f"{accepted:,} connections served, {options.connections} at a time")
    return Plot(
        f"{options.connections} connections, {options.rate} requests/s on each",
        "seconds",
        [
            Panel("memory, MiB", [Series("resident", readings.memory)]),
            Panel("descriptors", [Series("open", readings.descriptors)]),
            Panel("longest lag of a loop, ms", [Series("lag", readings.lag)], logarithmic=True),
        ],
        shaded=[(0.0, WARM_SHARE * options.seconds, "not judged")],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only a soak has."""
    parser.add_argument(
        "--rate", type=bounded_int(1, 1000), default=20, help="requests/s on each connection"
    )
    parser.add_argument(
        "--lifetime",
        type=bounded_int(1, 1_000_000),
        default=100,
        help="requests after which a connection is replaced (default: %(default)s)",
    )
    parser.add_argument("--allow-mib", type=positive, default=8.0, help="default: %(default)s")
    parser.add_argument(
        "--allow-descriptors", type=positive, default=16.0, help="default: %(default)s"
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo],
        {"steady": steady},
        conduct,
        connections=64,
        seconds=60.0,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
