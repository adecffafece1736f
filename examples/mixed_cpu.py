"""CPU-heavy requests beside light ones: what the light ones wait for, with asyncio and with a pool.

    python examples/mixed_cpu.py [--loops N] [--seconds S] [--heavy-ms MS]

The same server, once on one loop by plain asyncio, once on all loops of a pool. One client asks for
heavy answers one after another, each of so many milliseconds of plain Python; others ask for light
ones at fixed times, on a new connection each. On one loop, a light request that comes during a
heavy one waits for its end. In the pool, heavy work is spawned on the last loop, and new
connections are placed on the loops that are not stuck. The clients are in a process of their own.
The program prints both tables, measured in that run, and ends. It needs no other package.

The exit code is 0 if every request was answered, 1 if not, 2 if an option is wrong, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from load_test_client import bounded_int, duration

import loop_pool

PROGRAM = Path(__file__).resolve()
LIGHT_CLIENTS = 4
LIGHT_EVERY = 0.01
"""Seconds between the light requests of a client, whether the last one has been answered or not."""


async def compute(seconds: float) -> int:
    """Hold up the running loop with plain Python."""
    end = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < end:
        rounds += sum(range(100))
    return rounds


class Server:
    """Answers `light` at once, and `heavy` when it is computed."""

    def __init__(self, heavy_seconds: float, loop: loop_pool.EventLoop | None) -> None:
        """Compute on that loop of a pool; with None on the loop of the connection."""
        self.heavy_seconds = heavy_seconds
        self.loop = loop

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        try:
            while line := await reader.readline():
                if line == b"heavy\n":
                    if self.loop is None:
                        await compute(self.heavy_seconds)
                    else:
                        await loop_pool.spawn(compute(self.heavy_seconds), loop=self.loop)
                writer.write(b"done " + line)
                await writer.drain()
        except ConnectionError:
            pass  # a client that has gone
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


# The clients, in a process of their own


async def ask(port: int, what: bytes) -> float:
    """Send a request on a new connection; return the seconds from connecting to the answer."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(what)
        if await reader.readline() != b"done " + what:
            raise ConnectionError("a request was not answered")
        return time.perf_counter() - begin
    finally:
        writer.close()
        await writer.wait_closed()


async def ask_heavy(port: int, end: float) -> list[float]:
    """Ask for heavy answers, one after another; return their times."""
    times = []
    while time.perf_counter() < end:
        times.append(await ask(port, b"heavy\n"))
    return times


async def ask_light(port: int, end: float) -> list[float]:
    """Ask for light answers at fixed times; return their times."""
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[float]] = []
        while (due := begin + len(tasks) * LIGHT_EVERY) < end:
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(group.create_task(ask(port, b"light\n")))
    return [task.result() for task in tasks]


async def drive(port: int, seconds: float) -> dict[str, list[float]]:
    """Run all clients; return the times of all answers, in seconds."""
    end = time.perf_counter() + seconds
    heavy, *light = await asyncio.gather(
        ask_heavy(port, end), *(ask_light(port, end) for _ in range(LIGHT_CLIENTS))
    )
    return {"heavy": sorted(heavy), "light": sorted(itertools.chain(*light))}


# The server's process


async def measure(port: int, seconds: float) -> dict[str, list[float]]:
    """Start the clients; return the times that they measured."""
    command = [sys.executable, str(PROGRAM), "--client", str(port)]
    client = await asyncio.create_subprocess_exec(
        *command, "--seconds", str(seconds), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    if client.returncode:
        raise ConnectionError(f"the clients ended with exit code {client.returncode}")
    times: dict[str, list[float]] = json.loads(output)
    return times


async def on_one_loop(options: argparse.Namespace) -> dict[str, list[float]]:
    """Serve with plain asyncio."""
    server = Server(options.heavy_ms / 1000, None)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        return await measure(listening.sockets[0].getsockname()[1], options.seconds)


async def on_all_loops(options: argparse.Namespace) -> dict[str, list[float]]:
    """Serve with a pool, whose last loop does the heavy work."""
    server = Server(options.heavy_ms / 1000, loop_pool.current_pool().loops[-1])
    async with await loop_pool.start_server(server.serve, "127.0.0.1", 0) as listening:
        return await measure(listening.sockets[0].getsockname()[1], options.seconds)


def show(name: str, times: dict[str, list[float]]) -> None:
    """Print the rows of one server."""
    for kind in ("light", "heavy"):
        each = times[kind]
        columns = [each[min(len(each) - 1, int(len(each) * share))] for share in (0.5, 0.99)]
        row = "  ".join(f"{1000 * value:8.2f}" for value in (*columns, each[-1]))
        print(f"{name:<10} {kind:<6} {len(each):>8}  {row}")


def main() -> int:
    """Run the example; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--loops", type=bounded_int(2, 256), help="default: one for each core, two at least"
    )
    parser.add_argument(
        "--seconds", type=duration, default=3.0, help="for each server; default: %(default)s"
    )
    parser.add_argument(
        "--heavy-ms", type=bounded_int(1, 1_000), default=50, help="default: %(default)s"
    )
    parser.add_argument("--client", type=bounded_int(1, 65535), help=argparse.SUPPRESS)
    options = parser.parse_args()
    loops = options.loops or max(2, os.process_cpu_count() or 1)
    try:
        if options.client is not None:
            print(json.dumps(asyncio.run(drive(options.client, options.seconds))))
            return 0
        one = asyncio.run(on_one_loop(options))
        every = loop_pool.run(on_all_loops(options), loops=loops)
    except ConnectionError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if options.client is None:
            print("interrupted", file=sys.stderr)
        return 130
    print("milliseconds             requests       p50       p99       max")
    show("asyncio", one)
    show(f"{loops} loops", every)
    return 0


if __name__ == "__main__":
    sys.exit(main())
