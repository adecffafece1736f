"""Detects whether callbacks of several loops run in parallel, and if not, why."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
import time
import warnings
from typing import TYPE_CHECKING

from .. import _core

if TYPE_CHECKING:
    from types import FrameType

_said = False

_LOOKS = 200
_PAUSE = 0.005
"""How often, and how many seconds apart, the GIL is looked at while other threads import."""

_INITIALISERS = {
    "BuiltinImporter.create_module",
    "ExtensionFileLoader.create_module",
    "ExtensionFileLoader.exec_module",
}
"""The methods of ``importlib`` in which an extension module is initialised."""


def warn_if_serial(loops: int) -> None:
    """Say once per process that callbacks take turns, if they do and there are several loops.

    Issues a ``RuntimeWarning``: on a build with the GIL that there is one; on a free-threaded build
    whose GIL is on, which extension module switched it on, where that can be known.
    """
    global _said
    if _said or loops == 1 or not _stays_on():
        return
    _said = True
    # About the line outside of the package that starts the pool: by `run` or by a `Runner`.
    package = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
    warnings.warn(_explanation(), RuntimeWarning, skip_file_prefixes=(package,))


def _stays_on() -> bool:
    """Whether the GIL is on for good.

    While a thread initialises an extension module it is on for that long, whatever the module
    declares. So it does not count while another thread may be at it; of one that takes longer than
    a second nothing is said before the next pool starts.
    """
    for _ in range(_LOOKS):
        if not sys._is_gil_enabled():
            return False
        if not _may_be_for_an_import():
            return True
        time.sleep(_PAUSE)
    return False


def _may_be_for_an_import() -> bool:
    """Whether the GIL, which is on, may be so for an import by another thread.

    The threads are looked at when the GIL has been, so one that began or ended an import meanwhile
    is told by the GIL's being off at one of several looks in a row.
    """
    if not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.flags.gil:
        return False
    return any(_is_importing() or not sys._is_gil_enabled() for _ in range(3))


def _is_importing() -> bool:
    """Whether another thread initialises an extension module."""
    own = threading.get_ident()
    for thread, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None and thread != own:
            if frame.f_code.co_qualname in _INITIALISERS:
                return True
            frame = frame.f_back
    return False


def _explanation() -> str:
    consequence = (
        "the loops of the pool take turns at running Python code; only waiting and I/O overlap"
    )
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"this Python has a global interpreter lock: {consequence}"
    return (
        f"the global interpreter lock is on in this free-threaded Python ({why_it_is_on()}): "
        f"{consequence}"
    )


def why_it_is_on() -> str:
    """Return why the GIL of a free-threaded Python is on, as far as it can be known. Any thread."""
    if sys.flags.gil:
        return "it was requested by -X gil=1 or PYTHON_GIL=1"
    if culprits := modules_that_need_the_gil():
        return "it was switched on by the import of " + ", ".join(culprits)
    return "the module that switched it on is unknown"


def modules_that_need_the_gil() -> list[str]:
    """Return the names of imported extension modules that do not declare that they can do without.

    A module can declare it in its slots, which can be read, or by a call while it is initialised,
    which cannot: the latter are not named.
    """
    return sorted(name for name, module in list(sys.modules.items()) if _core._needs_gil(module))
