"""A TCP load client that checks every byte: the other side of `load_test.py`.

    python load_test_client.py --port PORT [--connections N] [--seconds S] [--size BYTES]

It needs nothing but the standard library, and works against any server that echoes what it gets.
Each connection sends one request, waits for the whole reply, compares it with what was sent, and
sends the next. A request is a header (length of the payload, number of the connection, sequence
number) and a payload out of a seeded random block, at an offset which differs from one connection
and sequence number to the next: a reply that is lost, doubled, cut, mixed up with another or wrong
in one bit is found.

The report goes to standard output as one JSON object. The exit code is 0 if every byte of every
reply was right, 1 if not, 2 if the options are wrong.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import selectors
import socket
import struct
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEADER = struct.Struct("!IIQ")
"""Payload length in bytes, connection number, sequence number."""
MAX_SIZE = 1 << 20
"""The largest payload, in bytes."""
MAX_CONNECTIONS = 10_000
MAX_BYTES_UNDER_WAY = 256 << 20
"""The limit of connections times size: each side of a connection holds a payload in memory."""
MAX_SECONDS = 3600.0
ANSWER_SECONDS = 10.0
"""A request that is not answered within this time after the load has ended counts as lost."""
CONNECT_SECONDS = 10.0
OFFSETS = 1 << 16
"""How many places of the random block a payload may begin at."""
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
REPORTED_FAILURES = 10
"""So many failures are told word for word; all of them are counted."""


class Requests:
    """The requests of all connections, made from one seed."""

    def __init__(self, size: int, seed: int) -> None:
        """Prepare payloads of `size` bytes."""
        self.size = size
        self._block = random.Random(seed).randbytes(size + OFFSETS)

    def make(self, connection: int, sequence: int) -> bytes:
        """Make the request: the same bytes for the same numbers."""
        offset = (connection * 40_503 + sequence * 7_919) % OFFSETS
        payload = self._block[offset : offset + self.size]
        return HEADER.pack(self.size, connection, sequence) + payload


def describe_difference(expected: bytes, reply: bytes | bytearray) -> str | None:
    """Say where `reply` differs from `expected`, or return `None` if every byte is right."""
    if expected == reply:
        return None
    for position, (wanted, got) in enumerate(zip(expected, reply, strict=False)):
        if wanted != got:
            return f"byte {position} of {len(expected)} is 0x{got:02x} instead of 0x{wanted:02x}"
    return f"{len(reply)} bytes instead of {len(expected)}"


class WrongReplyError(Exception):
    """What came back, or did not, is not what was sent."""


class Connection:
    """One connection with at most one request under way; used by one thread."""

    def __init__(self, number: int, address: tuple[str, int], requests: Requests) -> None:
        """Connect; raises `OSError`."""
        self.number = number
        self.sequence = -1
        self.waiting = False
        """Whether a request has been sent whose reply is not complete."""
        self._requests = requests
        self._request = b""
        self._unsent = memoryview(b"")
        self._reply = bytearray(HEADER.size + requests.size)
        self._received = 0
        self._sent_at = 0
        self.socket = socket.create_connection(address, CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def begin_request(self) -> None:
        """Make the next request and send as much of it as the socket takes."""
        self.sequence += 1
        self._request = self._requests.make(self.number, self.sequence)
        self._unsent = memoryview(self._request)
        self._received = 0
        self.waiting = True
        self._sent_at = time.perf_counter_ns()
        self.send()

    def send(self) -> None:
        """Send more of the request; raises `OSError`."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def receive(self) -> int | None:
        """Read more of the reply; the latency in nanoseconds once it is complete and right.

        Raises `WrongReplyError` or `OSError`.
        """
        try:
            received = self.socket.recv_into(memoryview(self._reply)[self._received :])
        except BlockingIOError:
            return None
        if not received:
            raise WrongReplyError(
                f"closed by the server after {self._received} of {len(self._reply)} bytes"
            )
        self._received += received
        if self._received < len(self._reply):
            return None
        latency = time.perf_counter_ns() - self._sent_at
        difference = describe_difference(self._request, self._reply)
        if difference:
            raise WrongReplyError(difference)
        self.waiting = False
        return latency

    def finish(self) -> None:
        """End the connection properly: nothing but its end may still come from the server.

        Raises `WrongReplyError` or `OSError`.
        """
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.shutdown(socket.SHUT_WR)
        surplus = self.socket.recv(65536)
        if surplus:
            raise WrongReplyError(f"{len(surplus)} bytes more than were sent")
        self.socket.close()


@dataclass
class Result:
    """What one thread saw."""

    replies: int = 0
    latencies: Counter[int] = field(default_factory=Counter)
    """Microseconds -> number of replies."""
    failures: list[str] = field(default_factory=list)
    began: float = 0.0
    last_reply: float = 0.0


class Driver:
    """What one thread does: it keeps its share of the connections busy until the deadline."""

    def __init__(
        self, connections: list[Connection], start: threading.Barrier, seconds: float
    ) -> None:
        """Take over `connections`; the load begins when all threads have reached `start`."""
        self.result = Result()
        self._connections = connections
        self._start = start
        self._seconds = seconds
        self._selector = selectors.DefaultSelector()

    def run(self) -> Result:
        """Drive the connections until every request is answered or has failed."""
        self._start.wait()
        self.result.began = self.result.last_reply = time.perf_counter()
        deadline = self.result.began + self._seconds
        for connection in self._connections:
            self._selector.register(connection.socket, connection.events, connection)
            self._attempt(connection, None, deadline)
        # Until the deadline every connection that has not failed waits for a reply.
        while any(connection.waiting for connection in self._connections):
            timeout = deadline + ANSWER_SECONDS - time.perf_counter()
            if timeout <= 0:
                break
            for key, events in self._selector.select(timeout):
                self._attempt(key.data, events, deadline)
        for connection in self._connections:
            if connection.waiting:
                self._fail(connection, f"no reply within {ANSWER_SECONDS:.0f} s")
        self._finish()
        return self.result

    def _attempt(self, connection: Connection, events: int | None, deadline: float) -> None:
        """Let one connection go on after `events` (`None`: begin with its first request)."""
        try:
            if events is None:
                connection.begin_request()
            else:
                self._go_on(connection, events, deadline)
        except (WrongReplyError, OSError) as error:
            self._fail(connection, str(error))
            return
        if self._selector.get_key(connection.socket).events != connection.events:
            self._selector.modify(connection.socket, connection.events, connection)

    def _go_on(self, connection: Connection, events: int, deadline: float) -> None:
        if events & selectors.EVENT_WRITE:
            connection.send()
        if not events & selectors.EVENT_READ:
            return
        if not connection.waiting:
            raise WrongReplyError("the server sent or closed without a request")
        latency = connection.receive()
        if latency is None:
            return
        self.result.replies += 1
        self.result.latencies[latency // 1000] += 1
        self.result.last_reply = time.perf_counter()
        if self.result.last_reply < deadline:
            connection.begin_request()

    def _fail(self, connection: Connection, reason: str) -> None:
        connection.waiting = False
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self.result.failures.append(
            f"connection {connection.number}, request {connection.sequence}: {reason}"
        )

    def _finish(self) -> None:
        for key in list(self._selector.get_map().values()):
            connection: Connection = key.data
            try:
                connection.finish()
            except (WrongReplyError, OSError) as error:
                self._fail(connection, str(error))
        self._selector.close()


def percentile(counts: Counter[int], fraction: float) -> int:
    """Return the smallest value that at least `fraction` of the counted values do not exceed.

    `counts` is value -> how often, and must not be empty; `fraction` is over 0 and at most 1.
    """
    needed = math.ceil(counts.total() * fraction)
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= needed:
            return value
    raise ValueError("nothing was counted")


@dataclass(frozen=True)
class Report:
    """What the client saw, as it goes to standard output."""

    connections: int
    replies: int
    payload_bytes: int
    seconds: float
    """From the first request to the last reply."""
    cpu_seconds: float
    latency_us: dict[str, int]
    """Percentile -> microseconds from sending a request to the last byte of its reply; empty if no
    request was answered."""
    failure_count: int
    failures: list[str]


def run_load(
    address: tuple[str, int],
    *,
    connections: int,
    seconds: float,
    size: int,
    seed: int,
    threads: int,
) -> Report:
    """Open the connections, keep them busy for `seconds`, and report.

    Raises `OSError` if a connection cannot be opened.
    """
    requests = Requests(size, seed)
    opened = [Connection(number, address, requests) for number in range(connections)]
    threads = min(threads, connections)
    start = threading.Barrier(threads)
    drivers = [Driver(opened[number::threads], start, seconds) for number in range(threads)]
    cpu = time.process_time()
    with ThreadPoolExecutor(threads, "load") as executor:
        results = list(executor.map(Driver.run, drivers))
    cpu = time.process_time() - cpu
    latencies: Counter[int] = Counter()
    failures: list[str] = []
    for result in results:
        latencies.update(result.latencies)
        failures += result.failures
    replies = sum(result.replies for result in results)
    if not replies:
        failures.append("no request was answered")
    return Report(
        connections=connections,
        replies=replies,
        payload_bytes=replies * size,
        seconds=max(r.last_reply for r in results) - min(r.began for r in results),
        cpu_seconds=cpu,
        latency_us={
            name: percentile(latencies, fraction)
            for name, fraction in PERCENTILES.items()
            if replies
        },
        failure_count=len(failures),
        failures=failures[:REPORTED_FAILURES],
    )


def bounded_int(low: int, high: int) -> Callable[[str], int]:
    """Make an `argparse` type for a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, not {value}")
        return value

    return parse


def duration(text: str) -> float:
    """Read a number of seconds, for `argparse`: over 0, at most an hour."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be over 0 and at most {MAX_SECONDS:.0f} seconds, not {text}"
        )
    return value


def parse_options(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Read the command line with the options that say what load to make added to it.

    Gives `connections`, `seconds`, `size`, `seed` and what `parser` had before. Ends the program
    with exit code 2 and a message on standard error if an option is wrong.
    """
    parser.add_argument(
        "--connections",
        type=bounded_int(1, MAX_CONNECTIONS),
        default=64,
        help="TCP connections at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=duration, default=5.0, help="duration of the load (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        type=bounded_int(1, MAX_SIZE),
        default=1024,
        help="random bytes in each request (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the random bytes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.connections * options.size > MAX_BYTES_UNDER_WAY:
        parser.error(
            f"--connections {options.connections} with --size {options.size} would keep more than"
            f" {MAX_BYTES_UNDER_WAY >> 20} MiB under way; choose less of one of them"
        )
    return options


def main() -> int:
    """Run the client; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=bounded_int(1, 65535), required=True)
    parser.add_argument(
        "--threads",
        type=bounded_int(1, 1024),
        default=os.cpu_count() or 1,
        help="default: one for each core",
    )
    options = parse_options(parser)
    try:
        report = run_load(
            (options.host, options.port),
            connections=options.connections,
            seconds=options.seconds,
            size=options.size,
            seed=options.seed,
            threads=options.threads,
        )
    except OSError as error:
        print(f"cannot connect to {options.host} port {options.port}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(asdict(report)))
    return 1 if report.failure_count else 0


if __name__ == "__main__":
    sys.exit(main())
