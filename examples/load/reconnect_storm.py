"""Reconnect storm: all clients drop and come back at once, again and again.

    python examples/load/reconnect_storm.py [--connections N] [--every SECONDS]

In each storm every connection ends, every other one by a reset, and each client connects again at
once and makes a request. A client is back when it has the whole reply; how long that takes counts
from the time at which the storm was due. The kernel keeps the port of a connection that its client
closed for a minute: with tens of thousands of them a minute there are none left to connect from.

The exit code is 0 if every client came back from every storm, every byte was right, 99 % of the
returns were within the limit, and all sockets are closed at the end; 1 if not, 2 if an option is
wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter

from _client import Connection, Failures, Load
from _common import Test, Trial, open_sockets, run
from _options import duration
from _plot import Panel, Plot, Series
from _server import echo
from _timeline import milliseconds, show_table

FIRST = "first"
"""The label of the first connection of each client; others have the number of the storm."""


async def storm(load: Load) -> None:
    """Connect all; drop and connect again as often as the plan says, from the time ordered."""
    numbers = range(*load.plan["numbers"])
    connections: dict[int, Connection] = {}

    async def come(number: int, label: str, due: float) -> None:
        with Failures(load, number):
            connections[number] = await load.connect(number)
            await connections[number].request(label, due)

    async def come_all(label: str, due: float) -> None:
        # The failures are counted, and whatever else is raised goes on up.
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(come(number, label, due))

    await come_all(FIRST, time.monotonic())
    due = (await load.orders.get())["begin"]
    for round_number in range(load.plan["rounds"]):
        if not await load.until(due):
            break
        for number, connection in connections.items():
            if number % 2:
                connection.reset()
            else:
                load.start(connection.close())
        connections.clear()
        await come_all(str(round_number), due)
        due += load.plan["every"]
    await load.ended.wait()
    for connection in connections.values():
        await connection.close()


def conduct(trial: Trial) -> Plot:
    """Count who came back from which storm, and when."""
    options = trial.options
    rounds = max(1, round(options.seconds / options.every))
    sockets = open_sockets()
    clients = trial.start_shared("storm", options.connections, rounds=rounds, every=options.every)
    # A connection is counted as open before its first request is answered.
    wanted = options.connections
    trial.wait(lambda: sum(client.replies for client in clients) >= wanted, 60.0, "connecting")
    begin = time.monotonic() + 0.1
    for client in clients:
        client.take()
        client.tell(begin=begin)
    back: dict[int, Counter[int]] = {number: Counter() for number in range(rounds)}

    def look(_: float) -> str:
        for client in clients:
            for label, counts in client.take().items():
                if label != FIRST:
                    back[int(label)].update(counts)
        latest = max((number for number, counts in back.items() if counts), default=0)
        returned = sum(counts.total() for counts in back.values())
        trial.stopped = returned == rounds * options.connections
        return (
            f"storm {latest + 1} of {rounds}: {back[latest].total():,} of {options.connections:,}"
            f" back, p99 {milliseconds(back[latest], 0.99):.1f} ms"
        )

    trial.watch(options.seconds + 3 * options.answer_seconds, look)
    trial.screen.clear()
    everything = Counter[int]()
    for counts in back.values():
        everything.update(counts)
    show_table([("back again", everything)])
    worst = max(back, key=lambda number: max(back[number], default=0))
    print(f"{rounds} storms of {options.connections:,} connections; the worst was {worst + 1}")
    complete = sum(counts.total() == options.connections for counts in back.values())
    trial.check(complete == rounds, f"everybody came back from {complete} of {rounds} storms")
    trial.check_latency("back again", everything)
    trial.check_sockets(sockets)
    lines = [
        Series(name, [(n + 1, milliseconds(counts, share)) for n, counts in back.items() if counts])
        for name, share in (("p50", 0.5), ("p99", 0.99), ("last", 1.0))
    ]
    return Plot(
        f"{options.connections} clients drop and come back every {options.every:g} s",
        "storm",
        [Panel("time until a client is back, ms", lines, limit=options.limit_ms)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this test has."""
    parser.add_argument(
        "--every",
        type=duration,
        default=1.0,
        help="time from one storm to the next (default: 1 second)",
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo],
        {"storm": storm},
        conduct,
        connections=300,
        seconds=10.0,
        limit_ms=1000.0,
        replaced=True,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
