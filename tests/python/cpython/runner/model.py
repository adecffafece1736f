"""What the child process and the parent tell each other, and what the parent sums up."""

from __future__ import annotations

import dataclasses
import enum
import fnmatch


class Outcome(enum.StrEnum):
    """How one test ended, from best to worst."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNEXPECTED = "unexpected success"
    ERROR = "error"
    CRASHED = "crashed"
    HUNG = "hung"

    @property
    def severity(self) -> int:
        """Position in the order above; the worst outcome of a test is the one that counts."""
        return list(Outcome).index(self)

    @property
    def is_failure(self) -> bool:
        """Whether a test that ended so fails the run."""
        return self not in (Outcome.PASSED, Outcome.SKIPPED)


@dataclasses.dataclass(frozen=True, slots=True)
class TestResult:
    """The end of one test: `loops` counts the loops of ours made while it ran."""

    name: str
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
    loops: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ChildSpec:
    """What one child process is told to do; it travels as a JSON file.

    `prefix` is taken off the front of every test id to make its name. `select` holds patterns
    (empty: all); `exclude` and `done` hold names which are not run.
    """

    module: str
    prefix: str
    loop: str
    events: str
    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    native_streams: bool = False
    native_tls: bool = False


@dataclasses.dataclass(slots=True)
class FileReport:
    """Everything that is known about one test file after its last child process ended."""

    module: str
    results: dict[str, TestResult] = dataclasses.field(default_factory=dict)
    known: frozenset[str] = frozenset()
    excluded: tuple[str, ...] = ()
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    loops: int = 0
    foreign_loops: int = 0
    seconds: float = 0.0
    skip_reason: str = ""

    def count(self, *outcomes: Outcome) -> int:
        """Number of tests that ended in one of `outcomes`."""
        return sum(result.outcome in outcomes for result in self.results.values())

    def add(self, result: TestResult) -> None:
        """Keep `result`, or the worse of two results of the same name."""
        seen = self.results.get(result.name)
        if seen is None or seen.outcome.severity < result.outcome.severity:
            self.results[result.name] = result

    @property
    def failures(self) -> list[TestResult]:
        """The tests that fail the run, in the order in which they ran."""
        return [result for result in self.results.values() if result.outcome.is_failure]


def is_selected(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether `name` (`test_x.Class.test_y`) is meant by one of `patterns`.

    A pattern is a name, the beginning of one up to a dot, or a shell pattern with `*`.
    """
    return not patterns or any(
        name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)
        for pattern in patterns
    )
