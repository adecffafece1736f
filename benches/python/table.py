"""Print the Markdown table of a micro-benchmark's raw results.

    python benches/python/table.py benches/results/micro.json

An entry is the median over the rounds in nanoseconds per operation; behind a stroke stands the
median, over the rounds, of the ratio to uvloop in the same round.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

BASELINE = "uvloop"


def nanoseconds(result: dict[str, Any], loop: str) -> list[float]:
    """The time of one operation in each round; empty if the loop has no result."""
    clock = f"{result['clock']}_ns"
    return [
        sample[clock] / sample["operations"]
        for sample in result["samples"].get(loop, [])
        if sample["operations"]
    ]


def entry(result: dict[str, Any], loop: str) -> str:
    """One cell of the table."""
    own, base = nanoseconds(result, loop), nanoseconds(result, BASELINE)
    if not own:
        return "-"
    text = f"{statistics.median(own):,.0f}"
    if loop != BASELINE and len(own) == len(base):
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        text += f" / {ratio:.2f}"
    return text


def table(document: dict[str, Any]) -> str:
    """The whole table, the machine above it."""
    loops = list(document["loops"])
    machine = document["machine"]
    versions = ", ".join(
        f"{loop} {document['loops'][loop]['version']}" for loop in loops if loop != "asyncio"
    )
    lines = [
        f"{machine['python']}, {machine['system']}, {machine['processor']}; {versions}; "
        f"{document['rounds']} interleaved rounds.",
        "",
        "| ns, and x uvloop | " + " | ".join(loops) + " |",
        "|---|" + "---:|" * len(loops),
    ]
    for result in document["results"]:
        cells = " | ".join(entry(result, loop) for loop in loops)
        lines.append(f"| `{result['workload']}` ({result['clock']}) | {cells} |")
    return "\n".join(lines)


def main() -> int:
    """Read the file that is named and print its table."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
