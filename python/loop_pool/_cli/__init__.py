"""The command ``loop-pool``: parses what was typed and calls the subcommand.

Each subcommand is a module with ``add_parser(subparsers)``, which adds its parser and sets its
``func`` default: a function that takes the parsed options and returns the exit code. What a
subcommand needs beyond the standard library it imports in that function.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Protocol

from .. import _core
from .._inspect import ps, top
from . import doctor, serve, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SUBCOMMANDS = (serve, worker, ps, top, doctor)

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell gives it."""


class Subparsers(Protocol):
    """Where a subcommand adds its parser: what ``ArgumentParser.add_subparsers`` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add a parser; the options are those of ``ArgumentParser``, and ``help``."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; ``None``: with the arguments of this process. Main thread.

    Returns:
        The exit code.

    Raises:
        SystemExit: the arguments are wrong (2), or ask for help or the version (0).
    """
    parser = argparse.ArgumentParser(
        prog="loop-pool", description="Tools for programs that run on a loop_pool."
    )
    parser.add_argument("--version", action="version", version=f"loop_pool {_core.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="command", required=True)
    for subcommand in _SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    options = parser.parse_args(arguments)
    func: Callable[[argparse.Namespace], int] = options.func
    try:
        return func(options)
    except KeyboardInterrupt:
        return INTERRUPTED
