"""Whether a second run agrees with a first one, figure by figure.

A figure is the ratio to the baseline of its workload, measured within the same round, or the value
itself where nothing stands beside it. Two runs **differ** in a figure when all rounds of one lie
above all rounds of the other and the medians are more than `TOLERANCE` apart; by chance alone that
happens to 1 figure in 35 with 4 rounds each, and to 1 in 10 with 3. Otherwise they **agree**
within the spread that both state, unless the rounds of one run are so far apart that there is
nothing to agree with: then the figure is **too noisy**.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from figures import Document, Series, Spread, format_number, peers_of, relative_series, spread_of

TOLERANCE = 0.03
"""Medians that are closer count as equal, however small the spread is."""
NOISY = 1.5
"""The highest of a run's rounds is so many times the lowest: it says nothing."""

AGREES, DIFFERS, NOISE = "agrees", "DIFFERS", "too noisy"
ONLY_OLD, ONLY_NEW = "only in the first run", "only in the second run"


@dataclass(frozen=True)
class Verdict:
    """What two runs say of one figure."""

    series: Series
    old: Spread | None
    new: Spread | None
    verdict: str

    @property
    def change(self) -> float:
        """The second median by the first; 1 where one of them is missing."""
        if self.old is None or self.new is None or not self.old.median:
            return 1.0
        return self.new.median / self.old.median


def judge(old: Spread, new: Spread) -> str:
    """Whether two spreads of one figure agree."""
    apart = old.most < new.least or new.most < old.least
    if apart and abs(new.median - old.median) > TOLERANCE * abs(old.median):
        return DIFFERS
    if any(each.least <= 0 < each.most or each.most > NOISY * each.least for each in (old, new)):
        return NOISE
    return AGREES


def compare(old: Document, new: Document) -> list[Verdict]:
    """Judge every figure that either run has, in the order of the first."""
    before = {series.key: series for series in relative_series(old)}
    after = {series.key: series for series in relative_series(new)}
    verdicts = []
    for key in [*before, *(key for key in after if key not in before)]:
        first, second = before.get(key), after.get(key)
        if first and second and first.unit != second.unit:  # compared with another baseline
            second = None
        old_spread = spread_of(first.values) if first else None
        new_spread = spread_of(second.values) if second else None
        if old_spread and new_spread:
            verdict = judge(old_spread, new_spread)
        else:
            verdict = ONLY_OLD if old_spread else ONLY_NEW
        series = first or second
        assert series is not None
        verdicts.append(Verdict(series, old_spread, new_spread, verdict))
    return verdicts


def conditions(old: Document, new: Document) -> Iterator[str]:
    """Yield what else is not the same in the two runs."""
    for key, first in old["machine"].items():
        second = new["machine"].get(key)
        if key != "load" and first != second:
            yield f"{key}: {first} / {second}"
    before, after = peers_of(old), peers_of(new)
    for peer in dict.fromkeys([*before, *after]):
        versions = [run[peer]["version"] if peer in run else "none" for run in (before, after)]
        if versions[0] != versions[1]:
            yield f"{peer}: {versions[0]} / {versions[1]}"
    if old["rounds"] != new["rounds"]:
        yield f"rounds: {old['rounds']} / {new['rounds']}"


def _range(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    median = format_number(spread.median)
    return f"{median} ({format_number(spread.least)}-{format_number(spread.most)})"


def format_comparison(old: Document, new: Document) -> Iterator[str]:
    """Yield the figures that do not agree, as a Markdown table, and how many do; line by line."""
    for line in conditions(old, new):
        yield f"Not the same: {line}"
    verdicts = compare(old, new)
    shown = [each for each in verdicts if each.verdict != AGREES]
    if shown:
        yield ""
        yield "| workload | variant | figure | first (range) | second (range) | change | |"
        yield "|---|---|---|---:|---:|---:|---|"
    for each in sorted(shown, key=lambda each: each.verdict != DIFFERS):
        change = f"{100 * (each.change - 1):+.0f} %" if each.old and each.new else "-"
        yield (
            f"| `{each.series.workload}` | {each.series.variant} | {each.series.metric}, "
            f"{each.series.unit} | {_range(each.old)} | {_range(each.new)} | {change} "
            f"| {each.verdict} |"
        )
    counts = Counter(each.verdict for each in verdicts)
    yield ""
    words = {AGREES: "agree", DIFFERS: "DIFFER"}
    yield f"{len(verdicts)} figures: " + ", ".join(
        f"{counts[verdict]} {words.get(verdict, verdict)}"
        for verdict in (AGREES, DIFFERS, NOISE, ONLY_OLD, ONLY_NEW)
        if counts[verdict] or verdict in {AGREES, DIFFERS}
    )
    yield f"By chance alone, up to {expect_by_chance(verdicts):.0f} would differ."


def expect_by_chance(verdicts: Iterable[Verdict]) -> float:
    """How many figures would lie apart if both runs drew their rounds from the same values.

    That their medians must be `TOLERANCE` apart too is left out, so it is the most there would be.
    """
    return sum(
        2 / math.comb(each.old.count + each.new.count, each.old.count)
        for each in verdicts
        if each.old and each.new
    )


def format_agreement(pairs: dict[str, tuple[Document, Document]]) -> Iterator[str]:
    """Yield how many figures agree, as a Markdown table, and which of loop_pool's differ.

    `pairs`: suite -> the results of two runs.
    """
    if not pairs:
        yield "Of the published results there is no second run."
        return
    yield "| suite | figures of both | agree | too noisy | differ | of these by chance, at most |"
    yield "|---|---:|---:|---:|---:|---:|"
    own = []
    for suite, (old, new) in pairs.items():
        verdicts = [each for each in compare(old, new) if each.old and each.new]
        counts = Counter(each.verdict for each in verdicts)
        yield (
            f"| {suite} | {len(verdicts)} | {counts[AGREES]} | {counts[NOISE]} | {counts[DIFFERS]} "
            f"| {expect_by_chance(verdicts):.0f} |"
        )
        own += [
            f"| `{suite}/{each.series.workload}` | {each.series.variant} | {each.series.metric}, "
            f"{each.series.unit} | {_range(each.old)} | {_range(each.new)} |"
            for each in verdicts
            if each.verdict == DIFFERS and each.series.variant.partition(",")[0] == "loop_pool"
        ]
    if own:
        yield ""
        yield "Of loop_pool's own figures these differ:"
        yield ""
        yield "| workload | variant | figure | first run (range) | second run (range) |"
        yield "|---|---|---|---:|---:|"
        yield from own


def differs(old: Document, new: Document) -> bool:
    """Whether the runs differ in any figure."""
    return any(each.verdict == DIFFERS for each in compare(old, new))
