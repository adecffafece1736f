"""The command ``loop-pool``: parses the command line and calls the subcommand.

Each subcommand is a module with an ``add_parser`` function; see ``subcommand``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import _core
from .._inspect import ps, top
from . import doctor, serve, worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SUBCOMMANDS = (serve, worker, ps, top, doctor)

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell gives it."""


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
