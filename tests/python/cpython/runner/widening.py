"""Puts our loop where CPython's tests use a mock loop although they ask nothing of the mock.

Much of what `test_base_events`, `test_tasks`, `test_futures`, `test_runners` and `test_pep492` say
about call_soon, timers, run_until_complete, exception handlers, tasks and futures is said with a
bare `BaseEventLoop` or with `utils.TestLoop`. A real loop keeps the same promises, so these tests
judge ours too. A `TestLoop` with a generator (a virtual clock) stays what it is.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

MOCKED: Final = frozenset({"_process_events", "_write_to_self"})
"""Private parts that those tests replace by mocks, which would keep a real loop from waking."""


def widen(module: ModuleType, loop_class: type[Any]) -> None:
    """Put `loop_class` in the place of mock loops in the loaded test file `module`."""
    adapt = _ADAPTERS.get(module.__name__.rpartition(".")[2])
    if adapt is not None:
        adapt(module, _stand_in(loop_class))


def _stand_in(loop_class: type[Any]) -> type[Any]:
    """A subclass of `loop_class` that lets a test treat it as the mock which it replaces.

    Mocks of `MOCKED` are ignored. One turn asked for by `_run_once()` is made by public means.
    """

    class StandIn(loop_class):  # type: ignore[misc]
        def __setattr__(self, name: str, value: object) -> None:
            if name not in MOCKED:
                super().__setattr__(name, value)

        def _run_once(self) -> None:
            if self.is_running():
                super()._run_once()
            else:
                self.call_soon(self.stop)
                self.run_forever()

    StandIn.__name__ = StandIn.__qualname__ = loop_class.__name__
    return StandIn


def _new_test_loop(loop_class: type[Any]) -> None:
    """Make `TestCase.new_test_loop()`, called without a generator, return a loop of ours."""
    utils = importlib.import_module("test.test_asyncio.utils")
    original = utils.TestCase.new_test_loop

    def new_test_loop(self: Any, gen: Any = None) -> asyncio.AbstractEventLoop:
        if gen is not None:
            return original(self, gen)  # type: ignore[no-any-return]
        loop: asyncio.AbstractEventLoop = loop_class()
        self.set_event_loop(loop)
        return loop

    utils.TestCase.new_test_loop = new_test_loop


def _set_up(test_case: type[Any], loop_class: type[Any]) -> None:
    """Replace the `setUp` of `test_case`, which makes a mock loop and nothing else."""

    def setUp(self: Any) -> None:
        super(test_case, self).setUp()
        self.loop = loop_class()
        self.set_event_loop(self.loop)

    test_case.setUp = setUp


def _base_events(module: ModuleType, loop_class: type[Any]) -> None:
    _set_up(module.BaseEventLoopTests, loop_class)
    _new_test_loop(loop_class)


def _pep492(module: ModuleType, loop_class: type[Any]) -> None:
    _set_up(module.BaseTest, loop_class)


def _futures(_module: ModuleType, loop_class: type[Any]) -> None:
    _new_test_loop(loop_class)


def _tasks(module: ModuleType, loop_class: type[Any]) -> None:
    _new_test_loop(loop_class)
    run_briefly = importlib.import_module("test.test_asyncio.utils").run_briefly

    def _run_loop(_test: Any, loop: Any) -> None:
        for _ in range(10):  # the original asks `loop._ready` whether there is more to do
            run_briefly(loop)

    module.GatherTestsBase._run_loop = _run_loop


def _runners(module: ModuleType, loop_class: type[Any]) -> None:
    def new_loop(_test: Any) -> Any:
        loop = loop_class()
        loop.shutdown_ag_run = False
        shut_down = loop.shutdown_asyncgens

        async def shutdown_asyncgens() -> None:
            loop.shutdown_ag_run = True
            await shut_down()

        loop.shutdown_asyncgens = shutdown_asyncgens
        return loop

    module.BaseTest.new_loop = new_loop


_ADAPTERS: Final[dict[str, Callable[[ModuleType, type[Any]], None]]] = {
    "test_base_events": _base_events,
    "test_futures": _futures,
    "test_pep492": _pep492,
    "test_runners": _runners,
    "test_tasks": _tasks,
}
