"""What conducts a load test: options, server, client processes, live progress, plot and verdict."""

from __future__ import annotations

import argparse
import json
import os
import platform
import stat
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _client import Role, run_client
from _options import parse
from _plot import Plot, draw, number_text, sparkline
from _server import END_SECONDS, HOST, Handler, Server
from load_test_client import percentile

LOOK_EVERY = 0.1
"""Seconds from one look at the load to the next."""
START_SECONDS = 30.0
"""A client process that has not begun within this time has failed."""


class ClientError(Exception):
    """A client process did not do what it was told; the text says what."""


def resident_bytes() -> int:
    """Memory of this process that the kernel keeps in place, in bytes."""
    with suppress(FileNotFoundError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())]))


def open_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/dev/fd"))


def open_sockets() -> int:
    """Count the open sockets of this process."""
    count = 0
    for name in os.listdir("/dev/fd"):
        # The descriptor that lists the folder is gone.
        with suppress(OSError):
            count += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
    return count


class Screen:
    """Progress: a line that is written again and again on a terminal, elsewhere one a second."""

    def __init__(self) -> None:
        """Write to standard output."""
        self._terminal = sys.stdout.isatty()
        self._last = 0.0

    def show(self, text: str) -> None:
        """Show a line; off a terminal only if the last one is a second old."""
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif (now := time.monotonic()) - self._last >= 1:
            self._last = now
            print(text, flush=True)

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)


def whole_keys(counts: dict[str, int]) -> Counter[int]:
    """Undo what JSON does to keys that are numbers."""
    return Counter({int(key): count for key, count in counts.items()})


class Client:
    """A client process. A thread takes up its reports; all else is for the main thread."""

    def __init__(self, program: str, plan: dict[str, Any]) -> None:
        """Start the program once more, as a client with that plan."""
        self.role = plan["role"]
        self.failures: list[str] = []
        self.failure_count = 0
        self.replies = 0
        self.open = 0
        self.late = 0.0
        """By how many seconds at most the process itself was late with a request."""
        self._late_since = 0.0
        self.reported_at = 0.0
        """When the last report was made, by `time.monotonic`."""
        self.waiting: Counter[int] = Counter()
        """Microseconds -> connections whose request has been due for so long, at that time."""
        self._latencies: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._lock = threading.Lock()
        self._ended = False
        self._finishing = False
        self._process = subprocess.Popen(
            [sys.executable, program, "--client", json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C goes to this process alone, which then ends the client.
            process_group=0,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            with self._lock:
                for label, counts in report["latencies"].items():
                    latencies = whole_keys(counts)
                    self._latencies[label].update(latencies)
                    self.replies += latencies.total()
                self.waiting = whole_keys(report["waiting"])
                self.failures += report["failures"]
                self.failure_count = report["failure_count"]
                self.open = report["open"]
                self.late = max(self.late, report["late"])
                self._late_since = max(self._late_since, report["late"])
                self.reported_at = report["time"]
                self._ended |= "end" in report

    def take(self) -> dict[str, Counter[int]]:
        """Give what was measured since the last call: label -> microseconds -> count."""
        with self._lock:
            taken, self._latencies = self._latencies, defaultdict(Counter)
            return taken

    def take_late(self) -> float:
        """Give `late` since the last call."""
        with self._lock:
            late, self._late_since = self._late_since, 0.0
            return late

    def mark(self) -> tuple[int, float]:
        """Give the replies so far and when that was, for `rate_since`."""
        with self._lock:
            return self.replies, self.reported_at

    def rate_since(self, mark: tuple[int, float]) -> float:
        """Give the replies per second since then, between the times of two reports."""
        replies, now = self.mark()
        return (replies - mark[0]) / (now - mark[1]) if now > mark[1] else 0.0

    def tell(self, **order: Any) -> None:
        """Give an order. A client that has ended does not get it: `check` says so."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def check(self) -> None:
        """Raise `ClientError` if the process has ended without being told to."""
        if not self._finishing and self._process.poll() is not None and not self._ended:
            raise ClientError(f"a client ({self.role}) ended with {self._process.returncode}")

    def ask_end(self) -> None:
        """Tell the client that the load is over, without waiting."""
        self._finishing = True
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def finish(self, seconds: float) -> None:
        """End the load and wait until every reply has come; raises `ClientError`."""
        self.ask_end()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ClientError(f"a client ({self.role}) did not end") from None
        self._thread.join()
        if code or not self._ended:
            raise ClientError(f"a client ({self.role}) ended with {code}")

    def kill(self) -> None:
        """End the process, whatever it does; nothing if it has ended."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()


def total_rate(clients: Sequence[Client], marks: Sequence[tuple[int, float]]) -> float:
    """Add up `rate_since` of clients and their marks."""
    return sum(each.rate_since(mark) for each, mark in zip(clients, marks, strict=True))


class Trial:
    """One run of a load test, as the part that conducts it sees it. For the main thread."""

    def __init__(self, program: str, options: argparse.Namespace, server: Server) -> None:
        """Take what runs already."""
        self.options = options
        self.server = server
        self.screen = Screen()
        self.clients: list[Client] = []
        self.stopped = False
        """Set to end `watch` early."""
        self.checks: list[tuple[bool, str]] = []
        """What was promised: whether it held, and what it was, in words."""
        self._program = program
        self._stack = ExitStack()

    def start(self, role: str, **plan: Any) -> Client:
        """Start a client process with the role and what it needs to know."""
        given = {
            "role": role,
            "host": HOST,
            "ports": self.server.ports,
            "size": self.options.size,
            "seed": self.options.seed,
            "answer_seconds": self.options.answer_seconds,
        }
        client = Client(self._program, {**given, **plan})
        self._stack.callback(client.kill)
        self.clients.append(client)
        return client

    def start_shared(self, role: str, count: int, **plan: Any) -> list[Client]:
        """Start as many client processes as the options say, which share `count` connections.

        Each gets its `numbers` [first, end, step] of connections in the plan.
        """
        processes = min(self.options.processes, count)
        return [
            self.start(role, numbers=[first, count, processes], **plan)
            for first in range(processes)
        ]

    @property
    def failed(self) -> bool:
        """Whether a client has found something wrong so far."""
        return any(client.failure_count for client in self.clients)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait until something holds or a client has failed; `ClientError` if it takes longer."""
        deadline = time.monotonic() + seconds
        while not condition() and not self.failed:
            self.look()
            if time.monotonic() > deadline:
                raise ClientError(f"{what}: not within {seconds:g} s")
            time.sleep(0.01)

    def watch(
        self,
        seconds: float,
        look: Callable[[float], str],
        enough: Callable[[], bool] = lambda: True,
    ) -> None:
        """Let the load go on for a time and until there is `enough`.

        It ends earlier if a client has failed or `stopped` is set. `look` is called regularly with
        the seconds since the begin and gives the line to show.
        """
        begin = time.monotonic()
        while not (self.failed or self.stopped):
            elapsed = time.monotonic() - begin
            if elapsed >= seconds and enough():
                break
            left = seconds - elapsed
            time.sleep(min(LOOK_EVERY, left) if left > 0 else LOOK_EVERY)
            self.look()
            self.screen.show(look(time.monotonic() - begin))

    def look(self) -> None:
        """Raise `ClientError` if a client has ended before its time."""
        for client in self.clients:
            client.check()

    def reported(self, clients: Sequence[Client]) -> None:
        """Wait until these clients have told what they measured until now."""
        now = time.monotonic()
        self.wait(
            lambda: all(each.reported_at >= now for each in clients), START_SECONDS, "reports"
        )

    def connected(self, clients: Sequence[Client], count: int) -> None:
        """Wait until these clients have `count` connections open."""
        seconds = START_SECONDS + count / 100
        self.screen.show(f"opening {count:,} connections")
        self.wait(lambda: sum(each.open for each in clients) >= count, seconds, "connecting")

    def check(self, held: bool, words: str) -> None:
        """Add something to the verdict."""
        self.checks.append((held, words))

    def check_latency(self, what: str, latencies: Counter[int], fraction: float = 0.99) -> None:
        """Add to the verdict that a percentile is within `--limit-ms`."""
        limit = self.options.limit_ms
        percent = f"p{100 * fraction:g}"
        if latencies:
            found = percentile(latencies, fraction) / 1000
            self.check(found <= limit, f"{what}: {percent} {found:.2f} ms, limit {limit:g} ms")
        else:
            self.check(False, f"{what}: nothing was answered")

    def check_sockets(self, before: int) -> None:
        """End the load; add to the verdict that the server then closes what it opened."""
        self.finish_clients()
        deadline = time.monotonic() + END_SECONDS
        while (left := open_sockets() - before) > 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        self.check(left <= 0, f"{max(0, left)} sockets left open after the clients had gone")

    def finish_clients(self) -> None:
        """End the load; every reply has come then."""
        self.finish(self.clients)

    def finish(self, clients: Sequence[Client]) -> None:
        """End the load of some clients; each of their requests is answered or has failed then."""
        for client in clients:
            client.ask_end()
        for client in clients:
            client.finish(START_SECONDS + 2 * self.options.answer_seconds)

    def close(self) -> None:
        """End the client processes that still run."""
        self._stack.close()


@dataclass(frozen=True)
class Test:
    """A load test: what differs from one to the other."""

    program: str
    """Its file."""
    description: str
    handlers: Sequence[Handler]
    """What the server does: a handler for each port."""
    roles: dict[str, Role]
    """What client processes do."""
    conduct: Callable[[Trial], Plot]
    """Starts clients, watches them, prints a table, adds to the verdict."""
    connections: int
    seconds: float
    size: int = 256
    limit_ms: float = 50.0
    least_loops: int = 1
    replaced: bool = False
    """Whether all connections are replaced at once: the old ones may be open still."""
    add_options: Callable[[argparse.ArgumentParser], object] = lambda _: None


def describe(options: argparse.Namespace) -> str:
    """Say what serves, on what."""
    from importlib import import_module

    version = "" if options.peer == "asyncio" else import_module(options.peer).__version__
    how = "pool of" if options.peer == "loop_pool" else "threads with"
    gil = "on" if sys._is_gil_enabled() else "off"
    return (
        f"{' '.join(filter(None, (options.peer, version)))}, {how} {options.loops}"
        f" loop{'s' if options.loops > 1 else ''}, CPython {platform.python_version()}"
        f" (GIL {gil}), {platform.system()} {platform.release()}, {os.cpu_count()} cores"
    )


def run(test: Test, arguments: Sequence[str] | None = None) -> int:
    """Run a load test, or one of its client processes; returns the exit code."""
    options = parse(test, arguments)
    if options.client is not None:
        return run_client(test.roles, options.client)
    try:
        return run_trial(test, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_trial(test: Test, options: argparse.Namespace) -> int:
    """Serve, conduct, judge; returns the exit code."""
    print(f"{Path(test.program).stem}: {describe(options)}", flush=True)
    plot = None
    server = Server(options.peer, options.loops, test.handlers)
    with server:
        trial = Trial(test.program, options, server)
        try:
            plot = test.conduct(trial)
            trial.finish_clients()
        except ClientError as error:
            trial.check(False, str(error))
        finally:
            trial.screen.clear()
            trial.close()
    if plot is not None:
        title = f"{Path(test.program).stem}: {plot.title}"
        show_plot(replace(plot, title=title), options)
    return judge(trial)


def show_plot(plot: Plot, options: argparse.Namespace) -> None:
    """Write the SVG file, and each of its lines as a row of blocks."""
    options.plot.write_text(draw(plot, describe(options)), encoding="utf-8")
    width = max(len(series.name) for panel in plot.panels for series in panel.series)
    print()
    for panel in plot.panels:
        print(panel.title)
        for series in panel.series:
            values = [value for _, value in series.points]
            if values:
                ends = f"{number_text(min(values))} to {number_text(max(values))}"
                print(f"  {series.name:<{width}}  {sparkline(values)}  {ends}")
    print(f"plot: {options.plot}\n")


def judge(trial: Trial) -> int:
    """Print the verdict; returns the exit code."""
    failures = [failure for client in trial.clients for failure in client.failures]
    count = sum(client.failure_count for client in trial.clients)
    replies = sum(client.replies for client in trial.clients)
    checks = list(trial.checks)
    if count:
        checks.append((False, f"{count:,} failures, after {replies:,} replies that were right:"))
    else:
        checks.append((replies > 0, f"{replies:,} replies, every byte was right"))
    late = 1000 * max((client.late for client in trial.clients), default=0.0)
    print(f"clients: themselves up to {late:.1f} ms late; so much of a latency may be theirs")
    for held, words in checks:
        print(f"{'ok    ' if held else 'FAILED'}  {words}")
    for failure in failures[:5]:
        print(f"          {failure}")
    for error in trial.server.errors[:5]:
        print(f"FAILED  on the server's side: {error}")
    if (more := len(trial.server.errors) - 5) > 0:
        print(f"FAILED  on the server's side: {more:,} more")
    good = all(held for held, _ in checks) and not trial.server.errors
    if not good and late > trial.options.limit_ms:
        print("note    the clients themselves were later than the limit: was the machine too busy?")
    print(f"verdict: {'passed' if good else 'failed'}")
    return 0 if good else 1
