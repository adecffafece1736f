"""Turns the reports of all files into the text that a person reads, and the exit status."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TextIO

from .model import FileReport, Outcome

HEADER = (
    f"{'file':<26}{'run':>6}{'passed':>8}{'failed':>8}{'errors':>8}"
    f"{'skipped':>9}{'excluded':>10}{'loops':>7}{'seconds':>9}"
)
ERRORS = (Outcome.ERROR, Outcome.CRASHED, Outcome.HUNG)


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """What the last line says; `failed` counts files' problems and stale exclusions as well."""

    passed: int
    failed: int
    skipped: int

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def row(report: FileReport) -> str:
    """One line of the table: what happened in one file."""
    skipped = report.count(Outcome.SKIPPED)
    line = (
        f"{report.module:<26}{len(report.results) - skipped:>6}"
        f"{report.count(Outcome.PASSED):>8}"
        f"{report.count(Outcome.FAILED, Outcome.UNEXPECTED):>8}"
        f"{report.count(*ERRORS):>8}{skipped:>9}"
        f"{len(report.excluded):>10}{report.loops:>7}{report.seconds:>9.1f}"
    )
    if report.skip_reason:
        line += f"  skipped: {report.skip_reason}"
    if report.foreign_loops:
        line += f"  ({report.foreign_loops} loops not ours)"
    if report.problems:
        line += f"  {len(report.problems)} problems"
    return line


def write(reports: Sequence[FileReport], stale: Sequence[str], out: TextIO) -> Totals:
    """Write every failure with its traceback, then the totals as the last line."""
    for report in reports:
        for problem in report.problems:
            _section(out, f"PROBLEM: {report.module}", problem)
        for result in report.failures:
            _section(out, f"{result.outcome.upper()}: {result.name}", result.detail)
    if stale:
        _section(out, "STALE EXCLUSIONS", "\n".join(stale))
    failing = [result for report in reports for result in report.failures]
    if failing or any(report.problems for report in reports):
        print(file=out)
        for report in reports:
            for problem in report.problems:
                print(f"problem   {report.module}: {problem.splitlines()[0]}", file=out)
        for result in failing:
            print(f"{result.outcome:<9} {result.name}", file=out)
    totals = Totals(
        passed=sum(report.count(Outcome.PASSED) for report in reports),
        failed=len(failing) + sum(len(report.problems) for report in reports) + len(stale),
        skipped=sum(report.count(Outcome.SKIPPED) + len(report.excluded) for report in reports)
        + sum(bool(report.skip_reason) for report in reports),
    )
    print(f"\n{totals}", file=out)
    return totals


def _section(out: TextIO, title: str, text: str) -> None:
    print(f"\n{'=' * 100}\n{title}\n{'-' * 100}\n{text.rstrip()}", file=out)
