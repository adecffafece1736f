"""The child process: loads one test file of CPython, runs it, and writes what happens as events.

Each event is one line of JSON, flushed at once, so that the parent knows which test was running
when the process crashed or hung:

    {"event": "ready", "tests": [name, ...]}
    {"event": "start", "test": name}
    {"event": "stop", "test": name, "outcome": ..., "detail": ..., "seconds": ..., "loops": ...}
    {"event": "problem", "text": ...}
    {"event": "end", "loops": ..., "foreign": ...}

Standard output and standard error belong to the tests.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import os
import resource
import signal
import sys
import sysconfig
import time
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .model import ChildSpec, Outcome, is_selected
from .placement import (
    Placement,
    PlacementError,
    load_loop_class,
    place_native_streams,
    place_native_tls,
)
from .widening import widen


class Events:
    """The stream of events; a process forked by a test does not write to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pid = os.getpid()

    def write(self, event: str, **fields: Any) -> None:
        """Write one event and flush it."""
        if os.getpid() == self._pid:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
            self._stream.flush()


class EventResult(unittest.TestResult):
    """Turns what unittest reports into events: one "start" and one "stop" for each test."""

    def __init__(self, events: Events, placement: Placement, prefix: str) -> None:
        super().__init__()
        self.current = ""
        self._events = events
        self._placement = placement
        self._prefix = prefix
        self._outcome = Outcome.PASSED
        self._details: list[str] = []
        self._started = 0.0
        self._loops = 0

    def startTest(self, test: unittest.TestCase) -> None:
        """Announce `test`."""
        super().startTest(test)
        self.current = name_of(test, self._prefix)
        self._outcome, self._details = Outcome.PASSED, []
        self._loops = self._placement.ours
        self._events.write("start", test=self.current)
        print(f"--- {self.current}", flush=True)
        self._started = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:
        """Report the worst of what happened in `test`."""
        super().stopTest(test)
        self._stop(self.current)
        self.current = ""

    def _stop(self, name: str) -> None:
        self._events.write(
            "stop",
            test=name,
            outcome=self._outcome,
            detail="\n".join(self._details),
            seconds=round(time.monotonic() - self._started, 3) if self._started else 0.0,
            loops=self._placement.ours - self._loops,
        )

    def _note(self, test: Any, outcome: Outcome, detail: str) -> None:
        if not self.current:  # a fixture of a class or of the module, not a test
            self._outcome, self._details, self._started = outcome, [detail], 0.0
            self._loops = self._placement.ours
            self._stop(name_of(test, self._prefix))
            return
        if outcome.severity > self._outcome.severity:
            self._outcome = outcome
        self._details.append(detail)

    def addError(self, test: Any, err: Any) -> None:
        """An exception other than a failed assertion, in a test or a fixture."""
        self._note(test, Outcome.ERROR, self._traceback(err))

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        """A failed assertion."""
        self._note(test, Outcome.FAILED, self._traceback(err))

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        """The end of a subtest, which counts when it failed."""
        if err is not None:
            is_failure = issubclass(err[0], test.failureException)
            outcome = Outcome.FAILED if is_failure else Outcome.ERROR
            self._note(test, outcome, f"{subtest}\n{self._traceback(err)}")

    def addSkip(self, test: Any, reason: str) -> None:
        """A test or a class that skipped itself."""
        self._note(test, Outcome.SKIPPED, reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        """A test marked as failing, which passed."""
        self._note(test, Outcome.UNEXPECTED, "passes, but is marked as an expected failure")

    @staticmethod
    def _traceback(err: Any) -> str:
        return "".join(traceback.format_exception(*err))


def name_of(test: Any, prefix: str) -> str:
    """The name of `test` or of a fixture (`setUpClass (package.file.Class)`) without `prefix`."""
    return str(test.id()).replace(prefix, "", 1)


def flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """The tests of `suite`, in order."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flatten(test)
        else:
            yield test


def prepare_process() -> None:
    """Show stacks on a crash and on SIGUSR1, as CPython's own runner does; leave no core files."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def load_tests(spec: ChildSpec, events: Events, placement: Placement) -> unittest.TestSuite | None:
    """Load the tests that `spec` asks for; `None` when the file skips itself or is broken."""
    try:
        module = importlib.import_module(spec.module)
        widen(module, placement.loop_class)
    except unittest.SkipTest as skip:
        events.write("skip", reason=str(skip))
        return None
    except BaseException:
        events.write("problem", text=f"cannot be imported\n{traceback.format_exc()}")
        return None
    loader = unittest.TestLoader()
    tests = list(flatten(loader.loadTestsFromModule(module)))
    for error in loader.errors:
        events.write("problem", text=error)
    names = [name_of(test, spec.prefix) for test in tests]
    events.write("ready", tests=names)
    left_out = {*spec.exclude, *spec.done}
    return unittest.TestSuite(
        test
        for test, name in zip(tests, names, strict=True)
        if name not in left_out and is_selected(name, spec.select)
    )


def watch_unraisable(events: Events, result: EventResult) -> None:
    """Report exceptions that no one could catch (in `__del__`, in C or Rust code, in threads)."""
    forward = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        forward(unraisable)
        error = "".join(traceback.format_exception(unraisable.exc_value)).rstrip()
        where = result.current or "between tests"
        what = f"{unraisable.err_msg or 'Exception ignored in'} {unraisable.object!r}"
        events.write("problem", text=f"unraisable exception, {where}: {what}\n{error}")

    sys.unraisablehook = hook


def run(spec: ChildSpec, events: Events) -> None:
    """Put our loop in place, run the tests, and report."""
    placement = Placement(load_loop_class(spec.loop))
    placement.install()
    if spec.native_streams:
        place_native_streams()
    result = EventResult(events, placement, spec.prefix)
    watch_unraisable(events, result)
    suite = load_tests(spec, events, placement)
    if spec.native_tls:
        place_native_tls()
    if suite is not None:
        suite.run(result)
    del suite
    gc.collect()
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys._is_gil_enabled():
        events.write("problem", text="the GIL was switched on while the file ran")
    events.write("end", loops=placement.ours, foreign=placement.foreign)


def main(spec_path: str) -> int:
    """Run the child process; `spec_path` is a JSON file with the fields of `ChildSpec`."""
    fields: dict[str, Any] = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    spec = ChildSpec(**{**fields, **lists})
    prepare_process()
    with Path(spec.events).open("a", encoding="utf-8") as stream:
        events = Events(stream)
        try:
            run(spec, events)
        except PlacementError as error:
            events.write("problem", text=str(error))
            events.write("end", loops=0, foreign=0)
    return 0
