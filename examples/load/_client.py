"""The client processes of the load tests: they make requests and check every byte of the replies.

The process that holds the server starts `PROGRAM --client PLAN`. The plan (JSON) names a role, a
coroutine function of the program, and says what it has to do. Orders come as lines of JSON on
standard input, whose end ends the load. Reports go out as lines of JSON on standard output: what
was measured since the last one. It is one thread with one plain asyncio loop, and needs nothing
but the standard library.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

from load_test_client import Requests, WrongReplyError, describe_difference

REPORT_EVERY = 0.1
"""Seconds from one report to the next."""
REPORTED_FAILURES = 10
"""So many failures are told word for word; all of them are counted."""
LOSSES = (OSError, EOFError, WrongReplyError)
"""What a connection ends with when the server did something wrong."""

type Role = Callable[[Load], Awaitable[None]]


def coarse(microseconds: int) -> int:
    """Keep the first three digits, so that a report has few different values."""
    step: int = 10 ** max(0, len(str(microseconds)) - 3)
    return microseconds // step * step


class Load:
    """What a role works with. All of it belongs to the loop of the process."""

    def __init__(self, plan: dict[str, Any]) -> None:
        """Take the plan: `host`, `ports`, `size`, `seed`, `answer_seconds` and the role's own."""
        self.plan = plan
        self.requests = Requests(plan["size"], plan["seed"])
        self.ended = asyncio.Event()
        """Set when the load is over: no new request begins."""
        self.orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.open = 0
        """Connections open now."""
        self.answer_seconds: float = plan["answer_seconds"]
        """A reply, or a connection, that takes longer is lost."""
        self.waiting: dict[Connection, float] = {}
        """When the request was due that is under way on a connection."""
        self.late = 0.0
        """By how many seconds at most this process woke up too late, since the last report."""
        self._latencies: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._failures: list[str] = []
        self._failure_count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def record(self, label: str, seconds: float) -> None:
        """Count one right reply, and how long it took from the time at which it was due."""
        self._latencies[label][coarse(round(max(0.0, seconds) * 1e6))] += 1

    def fail(self, reason: str) -> None:
        """Count something that the server did wrong."""
        self._failure_count += 1
        if self._failure_count <= REPORTED_FAILURES:
            self._failures.append(reason)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the rest; `wait` waits for its end and raises what it raised."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def wait(self) -> None:
        """Return when all that was started has ended."""
        while self._tasks:
            done, self._tasks = await asyncio.wait(self._tasks)
            for task in done:
                task.result()

    async def until(self, due: float) -> bool:
        """Sleep until `time.monotonic()` is `due`; whether the load still goes on then."""
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(left)
            self.late = max(self.late, time.monotonic() - due)
        return not self.ended.is_set()

    async def connect(
        self, number: int, port: int = 0, *, limit: int = 1 << 16, receive_buffer: int = 0
    ) -> Connection:
        """Open a connection to the port of that index.

        `limit`: as of `asyncio.open_connection`; `receive_buffer`: the kernel's, in bytes (0: its
        own choice). Raises `OSError`.
        """
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            address = self.plan["host"], self.plan["ports"][port]
            async with asyncio.timeout(self.answer_seconds):
                await asyncio.get_running_loop().sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
        except BaseException:
            sock.close()
            raise
        self.open += 1
        return Connection(self, number, reader, writer)

    async def paced(self, connection: Connection, label: str, every: float, due: float) -> None:
        """Make a request every so many seconds, the first at `due`, until the load is over.

        A reply that comes late delays what follows, and these latencies count from the times at
        which the requests should have begun.
        """
        while await self.until(due):
            await connection.request(label, due)
            due += every

    async def keep_paced(self, number: int, label: str, every: float, due: float) -> None:
        """As `paced`, on a connection of its own, which is closed at the end."""
        with Failures(self, number):
            connection = await self.connect(number)
            try:
                await self.paced(connection, label, every, due)
            finally:
                await connection.close()

    def report(self) -> dict[str, Any]:
        """Give what was measured since the last report."""
        latencies, self._latencies = self._latencies, defaultdict(Counter)
        failures, self._failures = self._failures, []
        late, self.late = self.late, 0.0
        now = time.monotonic()
        ages = (coarse(round(1e6 * (now - due))) for due in self.waiting.values() if due < now)
        return {
            "latencies": latencies,
            "waiting": Counter(ages),
            "failures": failures,
            "failure_count": self._failure_count,
            "open": self.open,
            "late": late,
            "time": now,
        }


class Failures:
    """Counts what a block ends with because of the server; other exceptions go on up."""

    def __init__(self, load: Load, number: int) -> None:
        """Take the number of the connection."""
        self._load = load
        self._number = number

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, LOSSES):
            reason = str(error) or f"no answer within {self._load.answer_seconds:g} s"
            self._load.fail(f"connection {self._number}: {reason}")
            return True
        return False


class Connection:
    """A connection with one request under way at a time."""

    def __init__(
        self, load: Load, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Take what `Load.connect` has opened."""
        self.number = number
        self.reader = reader
        self.writer = writer
        self._load = load
        self._sequence = 0

    def send(self) -> bytes:
        """Send the next request without waiting for anything; gives its bytes."""
        request = self._load.requests.make(self.number, self._sequence)
        self._sequence += 1
        self.writer.write(request)
        return request

    async def receive(self, expected: bytes) -> None:
        """Wait for a reply; raises what is in `LOSSES`."""
        async with asyncio.timeout(self._load.answer_seconds):
            try:
                reply = await self.reader.readexactly(len(expected))
            except asyncio.IncompleteReadError as end:
                raise WrongReplyError(
                    f"closed by the server after {len(end.partial)} of {len(expected)} bytes"
                ) from None
        if difference := describe_difference(expected, reply):
            raise WrongReplyError(f"request {self._sequence - 1}: {difference}")

    async def request(self, label: str, due: float) -> None:
        """Make a request that was due at that `time.monotonic()`, and record the reply."""
        self._load.waiting[self] = due
        try:
            await self.receive(self.send())
        finally:
            del self._load.waiting[self]
        self._load.record(label, time.monotonic() - due)

    async def close(self) -> None:
        """End the connection."""
        self._load.open -= 1
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """End the connection with a reset."""
        self._load.open -= 1
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def light(load: Load) -> None:
    """Make requests at a fixed rate on each connection: a role that several tests have."""
    first, count, step = load.plan["numbers"]
    every = 1 / load.plan["rate"]
    begin = time.monotonic()
    for number in range(first, count, step):
        due = begin + every * number / count
        load.start(load.keep_paced(number, "", every, due))


def _read_orders(load: Load) -> None:
    loop = asyncio.get_running_loop()
    pending = b""

    def read() -> None:
        nonlocal pending
        data = os.read(0, 65536)
        if not data:
            loop.remove_reader(0)
            load.ended.set()
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            load.orders.put_nowait(json.loads(line))

    os.set_blocking(0, False)
    loop.add_reader(0, read)


async def _report(load: Load) -> None:
    while True:
        await asyncio.sleep(REPORT_EVERY)
        print(json.dumps(load.report()), flush=True)


async def _work(role: Role, plan: dict[str, Any]) -> None:
    load = Load(plan)
    _read_orders(load)
    reports = asyncio.create_task(_report(load))
    try:
        await role(load)
        await load.wait()
    finally:
        reports.cancel()
        await asyncio.wait([reports])
    print(json.dumps({**load.report(), "end": True}), flush=True)


def run_client(roles: dict[str, Role], plan: str) -> int:
    """Do what the plan says; returns the exit code."""
    parsed = json.loads(plan)
    # A collection looks like a server that is late, so it is to find little to look at.
    gc.freeze()
    asyncio.run(_work(roles[parsed["role"]], parsed))
    return 0
