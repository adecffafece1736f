"""Writes why ``loop_pool.serve`` could not start to standard error, and selects the exit code."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from .plan import OptionError, StartupError

if TYPE_CHECKING:
    from types import TracebackType

WRONG_OPTION = 2
"""The exit code for an option that cannot be had, which is click's too."""

STARTUP_FAILURE = 3
"""The exit code of uvicorn when it cannot begin to serve."""

OUR_PACKAGES = {"click", "loop_pool", "uvicorn"}


def report(error: Exception) -> int:
    """Say what is wrong: in a line, or by the traceback if it comes from the application's code.

    Returns:
        The exit code.

    Raises:
        Exception: the error, if it is none that ``serve`` tells of.
    """
    if isinstance(error, OptionError):
        return fail(error.on_command_line(), WRONG_OPTION)
    if _in_application(error.__traceback__) is not None:
        traceback.print_exception(_shortened(error))
        return fail(f"cannot serve the application: {_in_words(error)}")
    if isinstance(error, SyntaxError):
        return fail(_in_words(error))
    if not isinstance(error, (ImportError, OSError, StartupError, TypeError, ValueError)):
        raise error
    return fail(str(error) or repr(error))


def fail(message: str, code: int = STARTUP_FAILURE) -> int:
    """Write a line, and return the exit code."""
    sys.stderr.write(f"loop-pool: {message}\n")
    return code


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{name} in {error.filename}, line {error.lineno}: {error.msg}"
    return f"{name}: {error}"


def _in_application(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the user's code; ``None``: it never does."""
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package not in sys.stdlib_module_names and package not in OUR_PACKAGES:
            return trace
        trace = trace.tb_next
    return None


def _shortened(error: BaseException) -> BaseException:
    """Return it, and those that it came of, without the way from the command to the application."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        trace = _in_application(each.__traceback__)
        if trace is not None:
            each.__traceback__ = trace
        todo += [other for other in (each.__cause__, each.__context__) if other is not None]
    return error
