"""The line on standard error that says what is measured and how long all of it will still take.

Its end is the one that the driver reads of every suite: `; N min left`, or `; < 1 min left`.
"""

from __future__ import annotations

import re
import statistics
import sys
import time

LEFT = re.compile(r"^(?P<text>.*); (?:(?P<minutes>\d+)|< 1) min left$")


def format_left(seconds: float) -> str:
    """The end of a line of progress."""
    minutes = seconds / 60
    return f"{minutes:.0f} min left" if minutes >= 1 else "< 1 min left"


def parse_left(line: str) -> tuple[str, float] | None:
    """The text of a line of progress and the seconds left; None if it is another line."""
    match = LEFT.match(line)
    if match is None:
        return None
    return match["text"], 60.0 * float(match["minutes"]) if match["minutes"] else 30.0


def say(text: str) -> None:
    """Show a line of progress in place of the one before, or below it where that cannot be."""
    sys.stderr.write(f"\r\033[K{text}" if sys.stderr.isatty() else f"{text}\n")
    sys.stderr.flush()


def clear() -> None:
    """Leave the line to others."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


class Progress:
    """Counts samples, and says how long those that are left will take."""

    def __init__(self, samples: int, seconds: float) -> None:
        """`seconds`: a first guess at what a sample takes."""
        self._left = samples
        self._seconds = [seconds]

    def begin(self, text: str) -> None:
        """Another sample begins."""
        say(f"{text}; {format_left(self._left * statistics.fmean(self._seconds))}")
        self._since = time.monotonic()

    def end(self) -> None:
        """It has ended."""
        self._left -= 1
        self._seconds.append(time.monotonic() - self._since)

    def skip(self, samples: int) -> None:
        """So many will not be taken."""
        self._left -= samples

    def clear(self) -> None:
        """Leave the line to others."""
        clear()
