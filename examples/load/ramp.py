"""Ramp: connections go up in steps until the 99th percentile of the latency breaks.

    python examples/load/ramp.py [--connections MOST] [--steps N] [--rate R] [--limit-ms MS]

Each connection makes requests at a fixed rate, whether the server keeps up or not, so each step is
more load. A step holds if its p99 is within the limit; requests that were due in it and are not
answered when it ends count with the time that they have waited. A step that does not hold is
measured once more, and the ramp ends if it does not hold then either. How late the clients
themselves were stands beside it: if that is more than the limit, the step says nothing about the
server, and there should be more client processes (`--processes`).

The exit code is 0 if every byte was right and `--need` connections were held, 1 if not, 2 if an
option is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass

from _client import Load
from _common import Client, Test, Trial, run, total_rate
from _plot import Panel, Plot, Series
from _server import echo
from _timeline import milliseconds, overdue
from load_test_client import MAX_CONNECTIONS, bounded_int

SETTLE_SECONDS = 0.2
"""What is left out of a step, after the first request on each of its connections was due."""


async def climb(load: Load) -> None:
    """Have so many connections as the last order says."""
    first, _, step = load.plan["numbers"]
    every = 1 / load.plan["rate"]
    started = 0
    end = load.start(load_over(load))
    while not load.ended.is_set():
        order = await load.orders.get()
        wanted = len(range(first, order.get("connections", 0), step))
        for place in range(started, wanted):
            due = time.monotonic() + every * (place % 97) / 97
            load.start(load.keep_paced(first + place * step, "", every, due))
            # So that the listener's queue is not what is measured.
            await load.until(time.monotonic() + 0.001)
        started = max(started, wanted)
    await end


async def load_over(load: Load) -> None:
    """Wake the one who waits for orders when there will be no more."""
    await load.ended.wait()
    load.orders.put_nowait({})


@dataclass(frozen=True)
class Step:
    """What was measured with so many connections."""

    connections: int
    rate: float
    """Requests answered per second."""
    latencies: Counter[int]
    """Of all requests that were due: microseconds -> requests."""
    late: float
    """By how many milliseconds at most the clients themselves were late."""

    @property
    def p99(self) -> float:
        """The 99th percentile in milliseconds; 0: no request was due."""
        return milliseconds(self.latencies, 0.99) if self.latencies else 0.0

    def __str__(self) -> str:
        columns = f"{self.connections:>11,} {self.rate:>12,.0f}"
        p50 = milliseconds(self.latencies, 0.5)
        return f"{columns} {p50:>12.2f} {self.p99:>12.2f} {self.late:>17.1f}"


def measure(trial: Trial, clients: list[Client], connections: int, seconds: float) -> Step:
    """Open connections until there are so many, then measure."""
    for client in clients:
        client.tell(connections=connections)
    trial.connected(clients, connections)
    name = f"{connections:,} connections"
    trial.watch(SETTLE_SECONDS + 1 / trial.options.rate, lambda _: name)
    trial.reported(clients)
    latencies = Counter[int]()
    marks = [client.mark() for client in clients]
    for client in clients:
        client.take()
        client.take_late()

    def look(_: float) -> str:
        for client in clients:
            for counts in client.take().values():
                latencies.update(counts)
        return f"{name}, {total_rate(clients, marks):,.0f} requests/s"

    trial.watch(seconds, look)
    trial.reported(clients)
    look(seconds)
    latencies.update(overdue(clients, 1 / trial.options.rate))
    late = 1000 * max(client.take_late() for client in clients)
    return Step(connections, total_rate(clients, marks), latencies, late)


def conduct(trial: Trial) -> Plot:
    """Go up step by step."""
    options = trial.options
    count = min(options.steps, options.connections)
    clients = trial.start_shared("climb", options.connections, rate=options.rate)
    steps: list[Step] = []
    held = broke = 0
    print("connections   requests/s       p50 ms       p99 ms   clients late ms")
    for number in range(1, count + 1):
        wanted = options.connections * number // count
        # Once more if it does not hold: the machine may have done something else meanwhile.
        for _ in range(2):
            step = measure(trial, clients, wanted, options.seconds / count)
            trial.screen.clear()
            print(step, flush=True)
            if trial.failed or step.p99 <= options.limit_ms:
                break
        steps.append(step)
        if trial.failed or step.p99 > options.limit_ms:
            broke = wanted
            break
        held = wanted
    need = min(options.need or options.connections // count, options.connections)
    end = f"broke at {broke:,}" if broke else "did not break"
    if broke and steps[-1].late > options.limit_ms:
        end += ", where the clients could not keep up themselves"
    words = f"held {held:,} connections at p99 within {options.limit_ms:g} ms, {end}"
    trial.check(held >= need, f"{words} (needed: {need:,})")
    lines = [
        Series(name, [(s.connections, milliseconds(s.latencies, share)) for s in steps])
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
    rates = [(step.connections, step.rate) for step in steps]
    return Plot(
        f"{options.rate:g} requests/s on each connection",
        "connections",
        [
            Panel("latency, ms", lines, limit=options.limit_ms, logarithmic=True),
            Panel("requests/s", [Series("answered", rates)]),
        ],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only a ramp has."""
    parser.add_argument("--steps", type=bounded_int(1, 1000), default=10)
    parser.add_argument(
        "--rate", type=bounded_int(1, 1000), default=2, help="requests/s on each connection"
    )
    parser.add_argument(
        "--need",
        type=bounded_int(1, MAX_CONNECTIONS),
        help="connections that must be held (default: those of the first step)",
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo],
        {"climb": climb},
        conduct,
        connections=2000,
        seconds=30.0,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
