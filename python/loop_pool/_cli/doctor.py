"""``loop-pool doctor``: checks whether Python can run on several cores, and if not, why.

In: the name of a module, or none. Out: facts about interpreter, process and machine, as text or
JSON, and an exit code. It changes nothing: the module is imported in a child process, because the
effect of an import on the GIL cannot be undone.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import sysconfig
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from .. import _core
from .._pool.gil import modules_that_need_the_gil, why_it_is_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .subcommand import Subparsers

PARALLEL, SERIAL, USAGE = 0, 1, 2
"""Exit codes: it can run Python on several cores; it cannot; it was not asked properly."""

_GIL_ENABLED = r"The global interpreter lock \(GIL\) has been enabled to load module '(.+?)'"
"""How CPython's own warning begins, which names the extension module that needs the GIL."""


@dataclasses.dataclass(frozen=True)
class Python:
    """The interpreter."""

    version: str
    free_threaded: bool
    """Whether it was built without the GIL."""
    executable: str


@dataclasses.dataclass(frozen=True)
class Gil:
    """The GIL of this process."""

    enabled: bool
    environment: str | None
    """``PYTHON_GIL``; None: not set."""
    option: str | None
    """``-X gil``; None: not given."""
    why: str | None
    """Why it is on in a free-threaded Python; None: it is off, or always there."""


@dataclasses.dataclass(frozen=True)
class Import:
    """What the import of a module did to the GIL of a fresh process."""

    module: str
    gil_enabled: bool
    switched_on_by: str | None
    """The extension module for which CPython switched the GIL on, by CPython's own warning."""
    undeclared: list[str]
    """All extension modules imported whose slots do not say that they can do without the GIL."""


@dataclasses.dataclass(frozen=True)
class Cores:
    """The cores of the machine, and those that this process may use."""

    machine: int | None
    """``os.cpu_count()``."""
    affinity: int | None
    """Cores that the process is allowed on; None: the system does not say."""
    process_cpu_count: int | None
    """``os.process_cpu_count()``, which ``PYTHON_CPU_COUNT`` and ``-X cpu_count`` replace."""
    quota: float | None
    """The CPU time that cgroups grant, in cores; None: no limit, or no cgroups."""
    usable: float
    """Cores that the process can keep busy: what affinity and quota leave."""


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """How many files and sockets the process may have open; None: as many as it likes."""

    soft: int | None
    hard: int | None
    """How far the process itself may raise the soft limit."""


@dataclasses.dataclass(frozen=True)
class Package:
    """loop_pool itself."""

    version: str
    extension: str | None
    """The file of the native module."""
    default_loops: int
    """Loops that ``loop_pool.run`` starts unless it is told how many."""


@dataclasses.dataclass(frozen=True)
class Report:
    """All that the doctor knows."""

    python: Python
    gil: Gil
    imported: Import | None
    """None: no module was given."""
    cores: Cores
    descriptors: Descriptors
    loop_pool: Package

    def obstacles(self) -> list[str]:
        """Return what keeps Python from running on more than one core; empty if nothing does."""
        found = []
        if not self.python.free_threaded:
            found.append("this Python was built with the GIL")
        elif self.gil.enabled:
            found.append(f"the GIL is on: {self.gil.why}")
        elif self.imported is not None and self.imported.gil_enabled:
            culprit = self.imported.switched_on_by
            because = "" if culprit is None else f", for {culprit}"
            found.append(f"the import of {self.imported.module} switches the GIL on{because}")
        if self.cores.usable <= 1:
            found.append("this process may use one core only")
        return found


class ImportFailed(Exception):
    """The module given cannot be imported; the text says why."""


def add_parser(subparsers: Subparsers) -> None:
    """Add ``doctor`` to the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="check whether Python can run on several cores at once",
        description="Check whether Python can run on several cores at once, and if not, why.",
        epilog="Exit code: 0 if it can, 1 if it cannot, 2 if the module cannot be imported.",
    )
    parser.add_argument(
        "module",
        nargs="?",
        type=_module_name,
        help="module to import in a separate process, to check whether it enables the GIL",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Print the report that was asked for; return the exit code. Any thread."""
    try:
        report = examine(options.module)
    except ImportFailed as error:
        print(f"loop-pool doctor: {error}", file=sys.stderr)
        return USAGE
    obstacles = report.obstacles()
    if options.json:
        facts = {"parallel": not obstacles, "obstacles": obstacles, **dataclasses.asdict(report)}
        print(json.dumps(facts, indent=2))
    else:
        for label, fact in describe(report):
            print(f"{label:<14}{fact}")
    return SERIAL if obstacles else PARALLEL


def examine(module: str | None = None) -> Report:
    """Gather the facts. Any thread.

    Raises:
        ImportFailed: the module cannot be imported.
    """
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    enabled = sys._is_gil_enabled()
    option = sys._xoptions.get("gil")
    return Report(
        python=Python(platform.python_version(), free_threaded, sys.executable),
        gil=Gil(
            enabled,
            os.environ.get("PYTHON_GIL"),
            None if option is None else str(option),
            why_it_is_on() if enabled and free_threaded else None,
        ),
        imported=None if module is None else import_elsewhere(module),
        cores=_examine_cores(),
        descriptors=Descriptors(*map(_limit, resource.getrlimit(resource.RLIMIT_NOFILE))),
        loop_pool=Package(_core.__version__, _core.__file__, _core._loop_count(None)),
    )


def describe(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the report line by line, as label and fact."""
    python, gil, cores = report.python, report.gil, report.cores
    build = "free-threaded build" if python.free_threaded else "build with the GIL"
    yield "Python", f"{python.version}, {build}"
    yield "", python.executable
    yield "GIL", "on" + (f": {gil.why}" if gil.why else "") if gil.enabled else "off"
    yield "PYTHON_GIL", "not set" if gil.environment is None else gil.environment
    yield "-X gil", "not given" if gil.option is None else gil.option
    yield from _describe_import(report)
    yield "cores", f"{_number(cores.usable)} usable"
    yield "", f"in the machine: {cores.machine or 'unknown'}"
    yield "", f"by affinity: {cores.affinity or 'unknown'}"
    yield "", "by cgroup: " + ("no quota" if cores.quota is None else _number(cores.quota))
    yield "", f"os.process_cpu_count(): {cores.process_cpu_count or 'unknown'}"
    yield "open files", f"soft limit: {_describe_limit(report.descriptors.soft)}"
    yield "", f"hard limit: {_describe_limit(report.descriptors.hard)}"
    yield "loop_pool", report.loop_pool.version
    yield "", str(report.loop_pool.extension)
    yield "", f"loops by default: {report.loop_pool.default_loops}"
    obstacles = report.obstacles()
    if not obstacles:
        yield "parallel", f"yes: Python can run on {_number(cores.usable)} cores at once"
    for number, obstacle in enumerate(obstacles):
        yield ("", f"and: {obstacle}") if number else ("parallel", f"no: {obstacle}")


def _describe_import(report: Report) -> Iterator[tuple[str, str]]:
    imported = report.imported
    if imported is None:
        yield (
            "import",
            "no module given: the effect of a program's imports on the GIL was not checked",
        )
        return
    after = "on" if imported.gil_enabled else "off"
    yield "import", f"{imported.module}: the GIL is {after} afterwards"
    if imported.switched_on_by is not None:
        yield "", f"switched on by the extension module {imported.switched_on_by}"
    elif imported.gil_enabled and report.python.free_threaded and not report.gil.enabled:
        yield "", "CPython did not report which extension module switched it on"
    if imported.undeclared:
        names = ", ".join(imported.undeclared)
        yield "", f"do not declare support for running without the GIL: {names}"


# -- the import ------------------------------------------------------------------------------------


def import_elsewhere(module: str) -> Import:
    """Import a module in a fresh process, with this one's environment and GIL option.

    What the module writes goes to standard error.

    Raises:
        ImportFailed: it cannot be imported, or ended the process.
    """
    options = [f"-Xgil={sys._xoptions['gil']}"] if "gil" in sys._xoptions else []
    source = f"from loop_pool._cli.doctor import report_import; report_import({module!r})"
    done = subprocess.run(
        [sys.executable, *options, "-c", source],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    if not done.stdout:
        how = f"exit code {done.returncode}"
        if done.returncode < 0:
            how = f"signal {signal.Signals(-done.returncode).name}"
        raise ImportFailed(f"the import of {module} ended the process: {how}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ImportFailed(f"cannot import {module}: {answer['error']}")
    return Import(module, **answer)


def report_import(module: str) -> NoReturn:
    """Import a module, write as JSON to standard output what that did, and end the process.

    Main thread of the child process.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # what the module prints is no answer
    switched_on_by: str | None = None
    show = warnings.showwarning

    def look(message: Warning | str, *more: Any, **named: Any) -> None:
        nonlocal switched_on_by
        if found := re.match(_GIL_ENABLED, str(message)):
            switched_on_by = found[1]
        else:
            show(message, *more, **named)

    warnings.filterwarnings("always", _GIL_ENABLED, RuntimeWarning)
    warnings.showwarning = look
    answer: dict[str, object]
    try:
        # Unlike `importlib.import_module`, it puts no frames of its own into a traceback.
        __import__(module)
    except KeyboardInterrupt:
        os._exit(128 + signal.SIGINT)
    except BaseException as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name in _with_parents(module)):
            # Without the frame of this function, which is of no interest.
            where = error.__traceback__ and error.__traceback__.tb_next
            traceback.print_exception(type(error), error, where)
        answer = {"error": "".join(traceback.format_exception_only(error)).strip()}
    else:
        answer = {
            "gil_enabled": sys._is_gil_enabled(),
            "switched_on_by": switched_on_by,
            "undeclared": modules_that_need_the_gil(),
        }
    os.write(answers, json.dumps(answer).encode())
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the module may have put something else there
            stream.flush()
    # Threads that the module started, and what it registered for the exit, are not waited for.
    os._exit(0)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]


def _module_name(text: str) -> str:
    if not all(part.isidentifier() for part in text.split(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a module name")
    return text


# -- the machine -----------------------------------------------------------------------------------


def _examine_cores() -> Cores:
    affinity, quota, usable, _ = _core._cores()
    return Cores(os.cpu_count(), affinity, os.process_cpu_count(), quota, usable)


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _describe_limit(limit: int | None) -> str:
    return "none" if limit is None else f"{limit:,}"


def _number(cores: float) -> str:
    return f"{cores:.2f}".rstrip("0").rstrip(".")
