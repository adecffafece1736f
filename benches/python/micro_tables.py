"""The Markdown tables of the micro benchmarks, made from the raw results of `micro.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from figures import (
    Document,
    Record,
    Sample,
    describe_gil,
    describe_run,
    format_number,
    format_spread,
    peers_of,
    ratios,
    spread_of,
    time_metric,
)

BASELINE = "uvloop"


def nanoseconds(record: Record, peer: str) -> list[float]:
    """The time of one operation in each round; empty if the peer has no result."""
    return time_metric(record).values(record["samples"].get(peer, []))


def format_cell(record: Record, peer: str) -> str:
    """Nanoseconds and, behind a stroke, the ratio to the baseline with its quartiles."""
    own, base = nanoseconds(record, peer), nanoseconds(record, BASELINE)
    if not own:
        return "-"
    text = format_number(spread_of(own).median)
    compared = ratios(own, base)
    if peer != BASELINE and compared:
        text += f" / {format_spread(spread_of(compared))}"
    return text


def format_document(document: Document) -> Iterator[str]:
    """Yield the table of a run, the machine above it and notes below it, line by line."""
    rounds = f"{document['rounds']} interleaved rounds."
    yield from describe_run(document, rounds, unsaid=("asyncio",))
    yield from describe_gil(document)
    peers = list(peers_of(document))
    yield ""
    yield f"| ns, and x {BASELINE} (quartiles) | {' | '.join(peers)} |"
    yield "|---|" + "---:|" * len(peers)
    for record in document["results"]:
        cells = " | ".join(format_cell(record, peer) for peer in peers)
        yield f"| `{record['workload']}` ({record['clock']}) | {cells} |"
    notes = [*_notes(document), *_failures(document)]
    if notes:
        yield ""
    for note in notes:
        yield f"- {note}"


def _failures(document: Document) -> Iterator[str]:
    """Yield who has no result of what, once for each reason."""
    workloads = defaultdict(list)
    for record in document["results"]:
        for peer, reason in record["failures"].items():
            if peer not in document["missing"]:
                workloads[peer, reason].append(record["workload"])
    for (peer, reason), names in workloads.items():
        others = [
            record["workload"] for record in document["results"] if record["workload"] not in names
        ]
        fewer = others if 0 < len(others) < len(names) else names
        of_what = "no result of" if fewer is names else "a result only of"
        yield f"{peer} has {of_what} {', '.join(f'`{name}`' for name in fewer)}: {reason}."


def _notes(document: Document) -> Iterator[str]:
    """Yield what a workload counts besides time."""
    for record in document["results"]:
        for peer, samples in record["samples"].items():
            for note in note_samples(samples, record["clock"]):
                yield f"`{record['workload']}`, {peer}: {note}."


def note_samples(samples: Sequence[Sample], clock: str) -> Iterator[str]:
    """Yield what is worth saying of the samples of a peer."""
    lost, stalled, posted = (
        sum(int(sample.get(key, 0)) for sample in samples)
        for key in ("lost", "stalled", "operations")
    )
    if lost or stalled:
        yield f"of {posted:,} callbacks that were posted {lost:,} were lost, {stalled:,} stalled"
    if spurious := sum(int(sample.get("spurious", 0)) for sample in samples):
        yield f"{spurious:,} calls with nothing to read"
    growth = f"{clock}_growth"
    if samples and all(growth in sample for sample in samples):
        own, bare = (
            format_spread(spread_of([sample[key] for sample in samples]))
            for key in (growth, f"{growth}_bare")
        )
        yield f"from one loop to two x {own}; of bare coroutines x {bare}"
