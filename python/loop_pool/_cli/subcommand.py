"""The interface of a subcommand of ``loop-pool``: a module with ``add_parser(subparsers)``.

The function adds the subcommand's parser and sets its ``func`` default, a function that takes the
parsed options and returns the exit code. Imports beyond the standard library belong in that
function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import argparse


class Subparsers(Protocol):
    """Where a subcommand adds its parser: what ``ArgumentParser.add_subparsers`` returns."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Add a parser; the options are those of ``ArgumentParser``, and ``help``."""
