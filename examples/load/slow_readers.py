"""Slow readers: clients that read far more slowly than the server could send.

    python examples/load/slow_readers.py [--connections N] [--read-kib K] [--light N]

Slow readers ask for a stream without an end and read a little of it now and then. The server sends
as fast as it may and awaits `drain()`, so what it holds for each of them is bounded. Light clients
make requests at a fixed rate meanwhile, and should notice nothing.

The exit code is 0 if every byte was right, the memory of the server's process grew by at most
`--allow-kib` for each slow reader and 16 MiB in all, the p99 of the light clients is within the
limit, and all sockets are closed at the end; 1 if not, 2 if an option is wrong, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import time

from _client import Failures, Load, light
from _common import START_SECONDS, Test, Trial, open_sockets, resident_bytes, run
from _plot import Panel, Plot, Series
from _server import echo
from _timeline import Timeline, milliseconds, show_table
from load_test_client import HEADER, MAX_SIZE, bounded_int

MIB = 1 << 20
PIECE = 4096
"""Random bytes of a piece of the stream."""
KERNEL_BUFFER = 16384
"""Of the kernel, for each direction: what it holds flows without the server, and takes time to
fill."""
COMMON_BYTES = 16 * MIB
"""By how much memory may grow whatever the number of slow readers."""
RUNAWAY = 4
"""The test ends at once when memory has grown by so many times what is allowed."""


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the payload of the one request again and again, numbered, as fast as may be."""
    size, number, _ = HEADER.unpack(await reader.readexactly(HEADER.size))
    if size > MAX_SIZE:
        raise ValueError(f"a request of {size} bytes")
    payload = await reader.readexactly(size)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
    sequence = 0
    while True:
        writer.write(HEADER.pack(size, number, sequence) + payload)
        await writer.drain()
        sequence += 1


async def slow(load: Load) -> None:
    """Read slowly on each connection."""
    first, count, step = load.plan["numbers"]
    every = (HEADER.size + PIECE) / (1024 * load.plan["read_kib"])
    begin = time.monotonic()
    for number in range(first, count, step):
        load.start(read_slowly(load, number, every, begin + every * number / count))


async def read_slowly(load: Load, number: int, every: float, due: float) -> None:
    """Ask for the stream; read a piece of it every so many seconds."""
    with Failures(load, number):
        connection = await load.connect(number, 1, limit=PIECE, receive_buffer=KERNEL_BUFFER)
        try:
            payload = connection.send()[HEADER.size :]
            sequence = 0
            while await load.until(due):
                expected = HEADER.pack(PIECE, number, sequence) + payload
                await connection.receive(expected)
                # How late it is says nothing: it is the reader who is slow.
                load.record("piece", 0.0)
                sequence += 1
                due += every
        finally:
            connection.reset()


def conduct(trial: Trial) -> Plot:
    """Measure the light clients alone, then beside the slow readers."""
    options = trial.options
    third = options.seconds / 3
    sockets = open_sockets()
    clients = trial.start_shared("light", options.light, rate=options.rate)
    trial.connected(clients, options.light)
    times = Timeline(clients, options.seconds)
    memory: list[tuple[float, float]] = []
    base = 0
    allowed = 1024 * options.allow_kib * options.connections + COMMON_BYTES

    def look(now: float) -> str:
        times.look(now)
        resident = resident_bytes()
        memory.append((now, resident / MIB))
        trial.stopped = base > 0 and resident - base > RUNAWAY * allowed
        return (
            f"{now:.0f} s of {options.seconds:g}: {resident / MIB:,.1f} MiB,"
            f" light p99 {milliseconds(times.groups[''], 0.99):.2f} ms"
        )

    trial.watch(third, look)
    alone = times.restart()[""]
    base = resident_bytes()
    readers = trial.start_shared("slow", options.connections, read_kib=options.read_kib, size=PIECE)
    trial.connected(readers, options.connections)
    times.restart()
    trial.watch(2 * third, lambda elapsed: look(third + elapsed))
    beside = times.groups[""]
    # While the slow readers go on, so that those who wait longest are counted as well.
    trial.finish(clients)
    times.look(options.seconds)

    def count_pieces() -> int:
        return sum(client.replies for client in readers)

    wanted = options.connections
    trial.wait(lambda: count_pieces() >= wanted, START_SECONDS, "a piece for each slow reader")
    pieces = count_pieces()
    grown = max((value for now, value in memory if now > third), default=0.0) - base / MIB
    trial.screen.clear()
    show_table([("light, alone", alone), ("light, beside slow", beside)])
    each = 1024 * grown / options.connections
    print(f"{options.connections} slow readers have read {pieces:,} pieces of {PIECE:,} bytes")
    trial.check(
        MIB * grown <= allowed,
        f"memory grew by {grown:.1f} MiB, {each:.0f} KiB for each slow reader;"
        f" allowed: {allowed / MIB:.1f} MiB",
    )
    trial.check_latency("light clients beside slow readers", beside)
    trial.check_sockets(sockets)
    return Plot(
        f"{options.connections} slow readers beside {options.light} light clients",
        "seconds",
        [
            Panel("memory, MiB", [Series("resident", memory)], limit=(base + allowed) / MIB),
            Panel(
                "latency of the light clients, ms",
                [Series("p50", times.p50[""]), Series("p99", times.p99[""])],
                limit=options.limit_ms,
                logarithmic=True,
            ),
        ],
        shaded=[(third, options.seconds, "slow readers as well")],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this test has."""
    parser.add_argument(
        "--read-kib",
        type=bounded_int(1, 4096),
        default=16,
        help="what a slow reader reads, in KiB per second (default: %(default)s)",
    )
    parser.add_argument(
        "--light", type=bounded_int(1, 1000), default=20, help="light clients, over and above"
    )
    parser.add_argument(
        "--rate", type=bounded_int(1, 1000), default=20, help="requests/s of each light client"
    )
    parser.add_argument(
        "--allow-kib",
        type=bounded_int(1, 65536),
        default=256,
        help="memory for each slow reader, in KiB (default: %(default)s)",
    )


def main() -> int:
    """Run the test; returns the exit code."""
    test = Test(
        __file__,
        __doc__ or "",
        [echo, stream],
        {"light": light, "slow": slow},
        conduct,
        connections=200,
        seconds=12.0,
        limit_ms=100.0,
        add_options=add_options,
    )
    return run(test)


if __name__ == "__main__":
    sys.exit(main())
