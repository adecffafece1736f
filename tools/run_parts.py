#!/usr/bin/env python3
"""Runs the parts of `make test`, several at a time where they allow it, and times them.

    python3 tools/run_parts.py --make make build models tests:build,models

A part is a target of make, with the parts behind the colon that must have ended before it begins.
What one part prints stays together: it is printed live for the one whose turn it is, and for the
others once their turn comes. After a failure no further part begins; those that run are waited for.
The lines that a part writes into the file `$RUN_PARTS_NOTES` stand below its name in the table at
the end.

The exit status is 0 if every part succeeded, 1 if one failed, 2 for wrong arguments and 130 after
an interrupt. Runs on any python3 from 3.9 on, with the standard library alone.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

NOTES = "RUN_PARTS_NOTES"
"""The environment variable in which a part finds the file for its notes."""

LOOK_SECONDS = 0.1
"""How often it is looked whether a part has ended or printed something."""


class Part(NamedTuple):
    """A target of make, and what must have ended before it begins."""

    name: str
    after: frozenset[str]


class Running:
    """A part that has begun: its process, and what that has printed."""

    def __init__(self, part: Part, make: Sequence[str], folder: str) -> None:
        self.part = part
        self.began = time.monotonic()
        self.seconds: float | None = None
        self.notes: list[str] = []
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as log:
            self._notes = Path(f"{log.name}.notes")
            # Not closed for the child: make passes its children a job server that way.
            self.process = subprocess.Popen(
                [*make, part.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                close_fds=False,
                env={**os.environ, NOTES: str(self._notes)},
            )
        self._log: BinaryIO = Path(log.name).open("rb")  # noqa: SIM115 - closed by `end`

    def look(self) -> bool:
        """Whether it has ended by now."""
        if self.seconds is None and self.process.poll() is not None:
            self.seconds = time.monotonic() - self.began
            if self._notes.exists():
                self.notes = self._notes.read_text(encoding="utf-8").splitlines()
        return self.seconds is not None

    def copy(self, out: BinaryIO) -> None:
        """Print what was not printed yet."""
        out.write(self._log.read())
        out.flush()

    def end(self) -> None:
        """End it if it runs."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self._log.close()


class PartsError(ValueError):
    """Parts that wait for each other, or for one that is not there."""


def parts_of(arguments: Sequence[str]) -> list[Part]:
    """The parts in their order; raises `PartsError` where one comes before what it waits for."""
    parts: list[Part] = []
    for argument in arguments:
        name, _, after = argument.partition(":")
        part = Part(name, frozenset(filter(None, after.split(","))))
        if unknown := part.after - {each.name for each in parts}:
            raise PartsError(f"{name} waits for {', '.join(sorted(unknown))}, not named before it")
        parts.append(part)
    return parts


class Interrupts:
    """Whether a SIGINT or SIGTERM has come.

    Neither raises: it could come as a part is begun, which nobody would end then.
    """

    def __init__(self) -> None:
        self.have_come = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._come)

    def _come(self, *_: object) -> None:
        self.have_come = True


def run(
    parts: Sequence[Part], make: Sequence[str], interrupts: Interrupts, out: BinaryIO
) -> list[Running]:
    """Run the parts and print what they print, until all have ended or an interrupt comes.

    Returns those that have begun. None of them runs on.
    """
    started: list[Running] = []
    waiting = list(parts)
    printed = 0
    with tempfile.TemporaryDirectory() as folder:
        try:
            while not interrupts.have_come:
                ended = {each.part.name for each in started if each.look()}
                failed = any(each.process.returncode for each in started)
                for part in [] if failed else [each for each in waiting if each.after <= ended]:
                    waiting.remove(part)
                    started.append(Running(part, make, folder))
                while printed < len(started):
                    # Looked at before the rest is copied: nothing is added after the end.
                    has_ended = started[printed].look()
                    started[printed].copy(out)
                    if not has_ended:
                        break
                    printed += 1
                if printed == len(started) and (failed or not waiting):
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            for each in started:
                each.end()
    return started


def table(started: Sequence[Running], seconds: float) -> str:
    """How long each part took, which failed, and the notes of each."""
    lines = ["", "time   part"]
    for each in started:
        status = f"  FAILED ({each.process.returncode})" if each.process.returncode else ""
        lines.append(f"{clock(each.seconds or 0)}  {each.part.name}{status}")
        lines += [f"       {note}" for note in each.notes]
    return "\n".join([*lines, f"{clock(seconds)}  in all", ""])


def clock(seconds: float) -> str:
    """`seconds` as minutes and seconds, "1:05"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:>2}:{rest:02}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit status as the head of this file says."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--make", default="make", help="the command of make (%(default)s)")
    parser.add_argument("parts", nargs="+", metavar="PART[:AFTER,...]")
    options = parser.parse_args(arguments)
    try:
        parts = parts_of(options.parts)
    except PartsError as error:
        parser.error(str(error))
    began = time.monotonic()
    interrupts = Interrupts()
    started = run(parts, shlex.split(options.make), interrupts, sys.stdout.buffer)
    if interrupts.have_come:
        print("interrupted", file=sys.stderr)
        return 130
    print(table(started, time.monotonic() - began), flush=True)
    return 1 if any(each.process.returncode for each in started) else 0


if __name__ == "__main__":
    sys.exit(main())
