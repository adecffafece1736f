"""The command line that all load tests have."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _server import find_factory
from load_test_client import MAX_CONNECTIONS, MAX_SIZE, bounded_int

if TYPE_CHECKING:
    from _common import Test

PEERS = ("loop_pool", "asyncio", "uvloop")
MAX_LOOPS = 256
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str) -> float:
    """Read a time for `argparse`: seconds, or with a unit as in `30m` and `4h`."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90, 30m or 4h") from None
    if not 0 < seconds <= 30 * 86400:
        raise argparse.ArgumentTypeError(f"must be over 0 and at most 30d, not {text}")
    return seconds


def positive(text: str) -> float:
    """Read a finite number over 0, for `argparse`."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number over 0, not {text}")
    return value


def parse(test: Test, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; ends the program with exit code 2 if it is wrong."""
    name = Path(test.program).stem
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=test.description.split("\n")[0])
    least = test.least_loops
    parser.add_argument(
        "--loops",
        type=bounded_int(least, MAX_LOOPS),
        default=max(least, os.process_cpu_count() or 1),
        help="event loops, each in a thread of its own (default: one for each core)",
    )
    parser.add_argument(
        "--peer", choices=PEERS, default=PEERS[0], help="what serves (default: %(default)s)"
    )
    parser.add_argument(
        "--connections",
        type=bounded_int(1, MAX_CONNECTIONS),
        default=test.connections,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--seconds",
        type=duration,
        default=test.seconds,
        help="duration of the load, also as 30m or 4h (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        type=bounded_int(1, MAX_SIZE),
        default=test.size,
        help="random bytes in each request (default: %(default)s)",
    )
    parser.add_argument(
        "--limit-ms",
        type=positive,
        default=test.limit_ms,
        help="the latency that is still good, in milliseconds (default: %(default)s)",
    )
    parser.add_argument(
        "--answer-seconds",
        type=duration,
        default=10.0,
        help="a reply that takes longer is lost (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=bounded_int(1, 64),
        default=max(1, (os.process_cpu_count() or 1) // 2),
        help="client processes (default: one for every other core)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the bytes (default: %(default)s)")
    parser.add_argument(
        "--plot", type=Path, default=Path(f"load-{name}.svg"), help="default: %(default)s"
    )
    parser.add_argument("--client", help=argparse.SUPPRESS)
    test.add_options(parser)
    options = parser.parse_args(arguments)
    if options.client is None:
        from load_test import allow_descriptors

        try:
            find_factory(options.peer)
        except ImportError as error:
            parser.error(f"--peer {options.peer}: {error}")
        if not options.plot.absolute().parent.is_dir():
            parser.error(f"--plot {options.plot}: there is no such folder")
        if options.plot.is_dir():
            parser.error(f"--plot {options.plot}: is a folder")
        if problem := allow_descriptors(options.connections * (2 if test.replaced else 1)):
            parser.error(f"--connections {options.connections}: {problem}")
    return options
