"""A pool server under load: every byte checked, every loop shown. `make run` starts this.

    python examples/load_test.py [--loops N] [--connections N] [--seconds S] [--size BYTES]

Starts an echo server on the loops of a pool, on a free port of the loopback interface, and drives
it over real TCP connections from a separate client process (`load_test_client.py`). Shows progress
while it runs, then a table: what each loop did, requests per second, latencies as the client saw
them. The exit code is 0 if every byte that came back was right, 1 if not, 2 if an option is wrong,
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from load_test_client import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    HEADER,
    MAX_SIZE,
    Report,
    bounded_int,
    parse_options,
)

import loop_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

CLIENT = Path(__file__).with_name("load_test_client.py")
HOST = "127.0.0.1"
MAX_LOOPS = 256
SPARE_DESCRIPTORS = 64 + 8 * MAX_LOOPS
"""Descriptors that a process needs besides its connections."""


@dataclass
class LoopCounts:
    """What the connections of one loop did; written only by that loop's thread."""

    connections: int = 0
    requests: int = 0
    broken: int = 0
    """Connections that ended in the middle of a request, with an error, or sent nonsense."""


class EchoServer:
    """Sends every request back; counts per loop without anything shared between loops."""

    def __init__(self, loops: Sequence[asyncio.AbstractEventLoop]) -> None:
        """Prepare the counts of each loop."""
        self.counts = {loop: LoopCounts() for loop in loops}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, on the loop that it was placed on."""
        counts = self.counts[asyncio.get_running_loop()]
        counts.connections += 1
        try:
            while True:
                header = await reader.readexactly(HEADER.size)
                size = HEADER.unpack(header)[0]
                if size > MAX_SIZE:
                    counts.broken += 1
                    break
                payload = await reader.readexactly(size)
                counts.requests += 1
                writer.write(header + payload)
                await writer.drain()
        except asyncio.IncompleteReadError as end:
            # A client that has no more requests closes before the next header.
            if end.partial or end.expected != HEADER.size:
                counts.broken += 1
        except ConnectionError:
            counts.broken += 1
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def read_thread_time() -> float:
    """Read the CPU time of the thread that this runs on, in seconds."""
    return time.thread_time()


async def read_thread_times(pool: loop_pool.Pool) -> list[float]:
    """Ask each loop of the pool, on its own thread; in the order of `pool.loops`."""
    return [await loop_pool.spawn(read_thread_time(), loop=loop) for loop in pool.loops]


@asynccontextmanager
async def running_client(
    port: int, options: argparse.Namespace
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the client process; it has ended when the block is left, whatever happens in it."""
    arguments = {
        "--host": HOST,
        "--port": port,
        "--connections": options.connections,
        "--seconds": options.seconds,
        "--size": options.size,
        "--seed": options.seed,
    }
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CLIENT),
        *(str(part) for argument in arguments.items() for part in argument),
        stdout=subprocess.PIPE,
        # Ctrl-C goes to this process alone, which then ends the client.
        process_group=0,
    )
    try:
        yield client
    finally:
        with suppress(ProcessLookupError):
            client.kill()
        await client.wait()


async def show_progress(server: EchoServer, options: argparse.Namespace) -> None:
    """Show once a second how far the load is, until cancelled.

    On a terminal it is one line, written again and again; elsewhere a line each time.
    """
    started: float | None = None
    before = time.monotonic()
    counted = [0] * len(server.counts)
    on_terminal = sys.stdout.isatty()
    try:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            requests = [counts.requests for counts in server.counts.values()]
            connections = sum(counts.connections for counts in server.counts.values())
            rates = [
                (new - old) / (now - before) for new, old in zip(requests, counted, strict=True)
            ]
            if started is None and any(requests):
                started = before
            line = f"{connections} of {options.connections} connections"
            if started is not None:
                line = (
                    f"{now - started:.0f} s of {options.seconds:g}: {line},"
                    f" {sum(rates):,.0f} requests/s"
                    f" (each loop: {' '.join(f'{rate:,.0f}' for rate in rates)})"
                )
            print(f"\r\x1b[K{line}" if on_terminal else line, end="" if on_terminal else "\n")
            sys.stdout.flush()
            before, counted = now, requests
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", flush=True)


class ClientError(Exception):
    """The client process gave no report that can be trusted; the text says why."""


async def drive(server: EchoServer, port: int, options: argparse.Namespace) -> Report:
    """Run the client against the server and return its report; raises `ClientError`."""
    limit = options.seconds + CONNECT_SECONDS + 2 * ANSWER_SECONDS + 30
    async with running_client(port, options) as client:
        progress = asyncio.create_task(show_progress(server, options))
        try:
            async with asyncio.timeout(limit):
                output, _ = await client.communicate()
        except TimeoutError:
            raise ClientError(f"the client did not end within {limit:.0f} s") from None
        finally:
            progress.cancel()
            await asyncio.wait([progress])
    if not output:
        raise ClientError(f"the client ended with exit code {client.returncode} and no report")
    return Report(**json.loads(output))


def find_problems(report: Report, counts: Sequence[LoopCounts], connections: int) -> list[str]:
    """Compare what the client saw with what the server did; all is right if the list is empty."""
    problems = list(report.failures)
    if report.failure_count > len(problems):
        problems.append(f"... and {report.failure_count - len(problems)} more")
    if problems:
        return problems
    served = sum(count.requests for count in counts)
    if served != report.replies:
        problems.append(f"{served} requests served, but {report.replies} replies received")
    accepted = sum(count.connections for count in counts)
    if accepted != connections:
        problems.append(f"{accepted} connections accepted instead of {connections}")
    if broken := sum(count.broken for count in counts):
        problems.append(f"{broken} connections broken on the server's side")
    return problems


def format_table(
    names: Sequence[str], counts: Sequence[LoopCounts], cpu_seconds: Sequence[float]
) -> Iterator[str]:
    """Yield the table of the loops, line by line."""

    def row(name: str, connections: int, requests: int, cpu: float) -> str:
        each = f"{cpu / requests * 1e6:.1f}" if requests else "-"
        return f"{name:<14}{connections:>12,}{requests:>14,}{cpu:>10.2f}{each:>17}"

    yield f"{'loop':<14}{'connections':>12}{'requests':>14}{'CPU s':>10}{'CPU us/request':>17}"
    for name, count, cpu in zip(names, counts, cpu_seconds, strict=True):
        yield row(name, count.connections, count.requests, cpu)
    connections = sum(count.connections for count in counts)
    yield row("all", connections, sum(count.requests for count in counts), sum(cpu_seconds))


def format_report(report: Report, size: int) -> Iterator[str]:
    """Yield what the client measured, line by line."""
    if not report.replies:
        return
    rate = report.replies / report.seconds
    yield f"requests/s    {rate:,.0f}  ({size:,} random bytes each way, {report.seconds:.2f} s)"
    yield "latency       " + "  ".join(
        f"{name} {microseconds / 1000:.2f} ms" for name, microseconds in report.latency_us.items()
    )
    yield f"client        {report.cpu_seconds:.2f} s of CPU in a process of its own"


async def run_test(options: argparse.Namespace) -> int:
    """Serve, drive, print; gives the exit code. Runs on loop 0 of the pool."""
    pool = loop_pool.current_pool()
    echo = EchoServer(pool.loops)
    before = await read_thread_times(pool)
    backlog = max(100, options.connections)
    async with await loop_pool.start_server(echo.serve, HOST, 0, backlog=backlog) as server:
        port = server.sockets[0].getsockname()[1]
        print(
            f"loop_pool {loop_pool.__version__} on {platform.python_implementation()}"
            f" {platform.python_version()}, GIL {'on' if sys._is_gil_enabled() else 'off'}:"
            f" {len(pool.loops)} {'loop' if len(pool.loops) == 1 else 'loops'}, port {port},"
            f" {options.connections} connections, {options.seconds:g} s",
            flush=True,
        )
        try:
            report = await drive(echo, port, options)
        except ClientError as error:
            return fail([str(error)])
    after = await read_thread_times(pool)
    counts = list(echo.counts.values())
    names = [stats.name for stats in pool.stats()]
    used = [end - begin for begin, end in zip(before, after, strict=True)]
    for line in format_table(names, counts, used):
        print(line)
    print()
    for line in format_report(report, options.size):
        print(line)
    if problems := find_problems(report, counts, options.connections):
        return fail(problems)
    print(f"checked       {report.replies:,} replies: every byte was right")
    return 0


def fail(problems: Sequence[str]) -> int:
    """Say what was wrong; gives the exit code."""
    sys.stdout.flush()
    print("FAILED", *problems, sep="\n  ", file=sys.stderr)
    return 1


def allow_descriptors(connections: int) -> str | None:
    """Raise this process's limit of open files as far as needed, for the client as well.

    Returns what is wrong if the machine does not allow so many.
    """
    needed = connections + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard != resource.RLIM_INFINITY and hard < needed:
        return f"{needed} open files are needed, but `ulimit -Hn` allows {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the load test; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--loops",
        type=bounded_int(1, MAX_LOOPS),
        help="event loops, each in a thread of its own (default: one for each core)",
    )
    options = parse_options(parser, arguments)
    if problem := allow_descriptors(options.connections):
        parser.error(f"--connections {options.connections}: {problem}")
    try:
        return loop_pool.run(run_test(options), loops=options.loops)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
