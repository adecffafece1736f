"""How long the tests of each room took, told at the end of a run.

The sum over all processes of the run: the report of a test comes from wherever it ran.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

HERE = Path(__file__).resolve().parent

NOTES = "RUN_PARTS_NOTES"
"""The environment variable with the file whose lines `make test` shows at its own end."""


class Took(NamedTuple):
    """What the tests of a room took."""

    seconds: float
    tests: int


def by_room(reports: Iterable[pytest.TestReport], root: Path) -> dict[str, Took]:
    """The rooms that ran, the one that took longest first; setup and teardown count."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, set[str]] = defaultdict(set)
    for report in reports:
        file = root / report.nodeid.partition("::")[0]
        if HERE in file.parents:
            room = file.relative_to(HERE).parts[0]
            seconds[room] += report.duration
            tests[room].add(report.nodeid)
    rooms = sorted(seconds, key=lambda room: -seconds[room])
    return {room: Took(seconds[room], len(tests[room])) for room in rooms}


def table(rooms: dict[str, Took]) -> list[str]:
    """A line for each room."""
    return [f"{took.seconds:7.1f} s  {room} ({took.tests} tests)" for room, took in rooms.items()]


def tell(reporter: pytest.TerminalReporter, root: Path) -> None:
    """Writes the table to the terminal, and to the notes of the part of `make test`."""
    # As pytest's own `--durations` finds them.
    stats = [report for reports in reporter.stats.values() for report in reports]
    lines = table(by_room([report for report in stats if hasattr(report, "duration")], root))
    if not lines:
        return
    reporter.section("seconds of each room, of all processes together")
    for line in lines:
        reporter.write_line(line)
    if notes := os.environ.get(NOTES):
        Path(notes).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
