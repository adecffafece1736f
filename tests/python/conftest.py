"""The same test on every loop: asyncio's own loop is the oracle that shows the test is right.

`LOOP_POOL_TESTS_ORACLE_ONLY=1` runs the oracle's half alone, without the package.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from . import room_times
from .left_behind import end_what_is_left, mark
from .services import MISSING
from .support import (
    FREE_THREADED,
    ORACLE_ONLY,
    TAKING_TURNS,
    LoopFactory,
    assert_descriptors,
    gil_enabled,
    open_descriptors,
    shut_down,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


_gil_culprit = pytest.StashKey[str]()
_left = pytest.StashKey[dict[int, str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Declares the mark of this folder, and marks the processes that tests will start."""
    if not hasattr(config, "workerinput"):
        mark()
    # A shell ignores Ctrl-C for what it runs in the background, nohup the hang-up, and children
    # inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line(
        "markers", "loop_pool_only: promises that asyncio's own loop does not make"
    )
    if not FREE_THREADED:
        config.addinivalue_line("filterwarnings", f"ignore:{TAKING_TURNS}:RuntimeWarning")
    if gil_enabled():
        config.stash[_gil_culprit] = "start of the run"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives each test that asks for a loop the oracle's and ours."""
    if "loop_factory" not in metafunc.fixturenames:
        return
    factories: dict[str, LoopFactory] = {}
    if not metafunc.definition.get_closest_marker("loop_pool_only"):
        factories["asyncio"] = asyncio.SelectorEventLoop
    if not ORACLE_ONLY:
        import loop_pool

        factories["loop_pool"] = loop_pool.new_event_loop
    metafunc.parametrize("loop_factory", factories.values(), ids=factories.keys())


class _Errors(logging.Handler):
    """Keeps what is reported as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def logged_errors() -> Iterator[list[str]]:
    """What `asyncio` and `loop_pool` log as an error; a test that expects some clears the list."""
    handler = _Errors()
    loggers = [logging.getLogger(name) for name in ("asyncio", "loop_pool")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.messages
    for logger in loggers:
        logger.removeHandler(handler)
    assert not handler.messages, "reported but not expected"


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """A server that is started in this process sets up logging, which is not the next test's."""
    names = ("asyncio", "loop_pool", "uvicorn", "uvicorn.access", "uvicorn.asgi", "uvicorn.error")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.propagate, one.disabled, one.level, one.handlers[:]) for one in loggers]
    yield
    for logger, (propagate, disabled, level, handlers) in zip(loggers, before, strict=True):
        logger.propagate, logger.disabled, logger.handlers[:] = propagate, disabled, handlers
        logger.setLevel(level)


@pytest.fixture
def no_descriptor_leak() -> Iterator[None]:
    """The test must leave the process with the descriptors that it found."""
    before = open_descriptors()
    yield
    assert_descriptors(before)


@pytest.fixture(params=[1, 2, 8], ids=lambda count: f"{count} loops")
def count(request: pytest.FixtureRequest) -> int:
    """How many loops the pool has: more than there are cores, too."""
    return int(request.param)


@pytest.fixture
def pair(no_descriptor_leak: None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets that do not block."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    with near, far:
        yield near, far


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Reference counting has to do."""
    gc.collect()
    gc.disable()
    yield
    gc.collect()
    gc.enable()


@pytest.fixture
def clean_process(logged_errors: list[str], no_descriptor_leak: None) -> Iterator[None]:
    """The test must leave no thread and no descriptor behind, and no error reported."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.fixture
def loop(
    loop_factory: LoopFactory, logged_errors: list[str], no_descriptor_leak: None
) -> Iterator[asyncio.AbstractEventLoop]:
    """A new loop; at the end it must close, with no error reported and no descriptor left."""
    loop = loop_factory()
    yield loop
    shut_down(loop)


@pytest.fixture
def reported(loop: asyncio.AbstractEventLoop) -> list[dict[str, Any]]:
    """The contexts that reach the loop's exception handler, which replaces the default one."""
    contexts: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: contexts.append(context))
    return contexts


def pytest_collection_finish() -> None:
    """Spares the many collections of the tests the objects that stay: modules and the tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Remembers the first test after which the GIL was on."""
    yield
    if gil_enabled() and _gil_culprit not in item.config.stash:
        item.config.stash[_gil_culprit] = item.nodeid


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run if the GIL came back, or a process that a test has started is left."""
    if not hasattr(session.config, "workerinput"):
        session.config.stash[_left] = end_what_is_left()
    if _gil_came_back() or session.config.stash.get(_left, None):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Says how long each room took, what was left out, and what is wrong with the process."""
    room_times.tell(terminalreporter, config.rootpath)
    skipped = terminalreporter.getreports("skipped")
    if left_out := [report.nodeid for report in skipped if MISSING in str(report.longrepr)]:
        terminalreporter.section("left out: their programs are not installed (make services)")
        for nodeid in left_out:
            terminalreporter.write_line(nodeid)
    if _gil_came_back():
        since = config.stash.get(_gil_culprit, "the last test")
        terminalreporter.section("the GIL is on", red=True)
        terminalreporter.write_line(f"On a free-threaded interpreter; since: {since}.")
    if left := config.stash.get(_left, None):
        terminalreporter.section("processes that tests have left behind, killed now", red=True)
        for pid, command in left.items():
            terminalreporter.write_line(f"{pid}: {command}")


def _gil_came_back() -> bool:
    return FREE_THREADED and gil_enabled() and not sys.flags.gil
