"""What clients measured, in groups and over time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from _common import Client
from load_test_client import percentile

POINTS = 40
"""Points of a plot."""


def milliseconds(latencies: Counter[int], fraction: float) -> float:
    """Give a percentile of microseconds -> count in milliseconds; NaN: nothing was counted."""
    return percentile(latencies, fraction) / 1000 if latencies else float("nan")


def overdue(clients: Sequence[Client], every: float) -> Counter[int]:
    """Count the requests that were due and are not answered: microseconds so far -> requests.

    `every`: seconds between those of one connection, which come one after another.
    """
    step = round(1e6 * every)
    ages = Counter[int]()
    for client in clients:
        for age, connections in client.waiting.items():
            for later in range(0, age + 1, step):
                ages[age - later] += connections
    return ages


def show_table(rows: Sequence[tuple[str, Counter[int]]]) -> None:
    """Print a row for each name and its latencies."""
    width = max(24, 2 + max(len(name) for name, _ in rows))
    print(f"{'milliseconds':<{width}}  requests        p50        p99        max")
    for name, counts in rows:
        values = [milliseconds(counts, share) for share in (0.5, 0.99, 1.0)]
        columns = "".join(f"{value:>11.2f}" for value in values)
        print(f"{name:<{width}}{counts.total():>10,}{columns}")


class Timeline:
    """Takes up the latencies of some clients; for the thread that conducts."""

    def __init__(
        self,
        clients: Sequence[Client],
        seconds: float,
        group: Callable[[str], str] = lambda label: label,
    ) -> None:
        """Begin. `group` names the group of a label; `seconds` is how long all of it takes."""
        self.p50: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """Group -> points (seconds, milliseconds)."""
        self.p99: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self.groups: defaultdict[str, Counter[int]] = defaultdict(Counter)
        """Group -> what was measured since `restart`."""
        self._recent: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._clients = clients
        self._group = group
        self._every = seconds / POINTS
        self._due = self._every
        self.restart()

    def restart(self) -> defaultdict[str, Counter[int]]:
        """Give the groups so far, and begin new ones; what is not taken up yet is left out."""
        for client in self._clients:
            client.take()
        groups, self.groups = self.groups, defaultdict(Counter)
        return groups

    def look(self, now: float) -> None:
        """Take up what was measured until `now`, in seconds since the begin of everything."""
        for client in self._clients:
            for label, counts in client.take().items():
                group = self._group(label)
                self.groups[group].update(counts)
                self._recent[group].update(counts)
        if now >= self._due:
            self._due = now + self._every
            for group, counts in self._recent.items():
                self.p50[group].append((now, milliseconds(counts, 0.5)))
                self.p99[group].append((now, milliseconds(counts, 0.99)))
            self._recent.clear()
