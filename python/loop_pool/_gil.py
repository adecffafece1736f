"""Whether Python callbacks of several loops really run at the same time, and if not, why."""

from __future__ import annotations

import sys
import sysconfig
import warnings

from . import _core

_said = False


def warn_if_serial(loops: int) -> None:
    """Say once per process that callbacks take turns, if they do and there are several loops.

    Issues a ``RuntimeWarning``: on a build with the GIL that there is one; on a free-threaded build
    whose GIL is on, which extension module switched it on, where that can be known.
    """
    global _said
    if _said or loops == 1 or not sys._is_gil_enabled():
        return
    _said = True
    warnings.warn(_explanation(), RuntimeWarning, stacklevel=5)


def _explanation() -> str:
    consequence = (
        "the loops of the pool take turns at running Python code; only waiting and I/O overlap"
    )
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"this Python has a global interpreter lock: {consequence}"
    culprits = modules_that_need_the_gil()
    if culprits:
        why = "it was switched on by the import of " + ", ".join(culprits)
    elif sys._xoptions.get("gil") == "1" or _environment_asks_for_gil():
        why = "it was asked for by -X gil=1 or PYTHON_GIL=1"
    else:
        why = "which module switched it on cannot be known"
    return f"the global interpreter lock is on in this free-threaded Python ({why}): {consequence}"


def _environment_asks_for_gil() -> bool:
    import os

    return os.environ.get("PYTHON_GIL") == "1"


def modules_that_need_the_gil() -> list[str]:
    """Return the names of imported extension modules that do not declare that they can do without.

    A module can declare it in its slots, which can be read, or by a call while it is initialised,
    which cannot: the latter are not named.
    """
    return sorted(name for name, module in list(sys.modules.items()) if _core._needs_gil(module))
