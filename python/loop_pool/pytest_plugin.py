"""A pytest plugin: tests on loops of this package, and in pools.

pytest finds it through the entry point ``loop_pool``. It adds an option, a mark and the fixtures
below, and requires neither pytest-asyncio nor anyio.

- The fixture :func:`pool`: a synchronous test runs coroutines in its own pool.
- The mark ``loop_pool(loops=4)``: the arguments of :class:`loop_pool.Runner` for the test's pool.
- ``--loop-pool``, or the ini option ``loop_pool = true``: pytest-asyncio tests run on a loop of
  this package, and tests with the mark on loop 0 of a pool.
- :class:`PoolFactory`: the same for any other API that accepts a loop factory.
- The fixture :func:`loop_pool_backend`: a value for anyio's ``anyio_backend``.

A pool that lives as long as another plugin's runner must end with it. So its loop 0 is a
:class:`_PoolLoop`, which shuts the pool down when ``asyncio.Runner`` shuts the loop down.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from typing import TYPE_CHECKING, Any, final

import pytest

from . import _core
from ._loop.event_loop import EventLoop, new_event_loop
from ._pool.pool import LoopStats, Pool, current_pool
from ._pool.runner import Runner

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Coroutine, Iterator

SHUTDOWN_TIMEOUT = 5.0
"""Seconds that the pool of a test may take to end, unless its mark says otherwise."""

_MOST_LOOPS = 4
"""Loops of a pool for which nobody gave a number, at most: each costs a thread in each test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options. As pytest's hook of that name."""
    what = "run pytest-asyncio tests on loops of loop_pool"
    parser.getgroup("loop_pool").addoption(
        "--loop-pool", action="store_true", default=False, dest="loop_pool", help=what
    )
    parser.addini("loop_pool", what, type="bool", default=False)
    parser.addini(
        "loop_pool_loops",
        "number of loops of a test's pool; default: one per core, at least 2 and at most "
        f"{_MOST_LOOPS}",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and hook into pytest-asyncio if requested. As pytest's hook.

    Raises:
        pytest.UsageError: the option is on and pytest-asyncio is missing or lacks the hook.
    """
    config.addinivalue_line(
        "markers",
        "loop_pool(loops=..., ...): the arguments of loop_pool.Runner for the pool of a test",
    )
    if not (config.getoption("loop_pool") or config.getini("loop_pool")):
        return
    # Only then: pytest-asyncio takes no "none of mine" for an answer of its hook.
    if not hasattr(config.hook, "pytest_asyncio_loop_factories"):
        raise pytest.UsageError(
            "--loop-pool (or the ini option loop_pool) needs a pytest-asyncio that has the hook "
            "pytest_asyncio_loop_factories; for anyio use the fixture loop_pool_backend"
        )
    config.pluginmanager.register(_ForPytestAsyncio(config), "loop_pool_for_asyncio")


class _ForPytestAsyncio:
    """Tells pytest-asyncio the loop of each test. A ``conftest.py`` with the same hook goes first.

    The factory is the same object for the same arguments, as pytest-asyncio keeps a loop of a wider
    scope for as long as its tests have the same one.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._factories: dict[tuple[tuple[str, Any], ...], PoolFactory] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_asyncio_loop_factories(
        self, item: pytest.Item
    ) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
        mark = item.get_closest_marker("loop_pool")
        if mark is None:
            return {"loop_pool": new_event_loop}
        options = _options(self._config, mark, item.nodeid)
        key = tuple(sorted(options.items()))
        return {"loop_pool": self._factories.setdefault(key, PoolFactory(**options))}


@final
class PoolFixture:
    """The value of the fixture :func:`pool`.

    Threads: in a synchronous test, call ``run`` in the thread of the test; any thread may use the
    rest. In an asynchronous test, use it first on a loop of the pool.
    """

    def __init__(self, runner: Runner | None) -> None:
        self._runner = runner
        self._found: Pool | None = None

    def run[T](
        self, coro: Coroutine[Any, Any, T], *, context: contextvars.Context | None = None
    ) -> T:
        """Run a coroutine on loop 0 and return its result; may be repeated. As ``Runner.run``.

        Raises:
            RuntimeError: the test is asynchronous: it runs on loop 0 already.
            TypeError: ``coro`` is not awaitable.
        """
        if self._runner is None:
            if inspect.iscoroutine(coro):
                coro.close()
            raise RuntimeError("pool.run() is for synchronous tests: await the coroutine")
        return self._runner.run(coro, context=context)

    @property
    def pool(self) -> Pool:
        """The ``Pool`` object.

        Raises:
            RuntimeError: the test is asynchronous and does not run in a pool.
        """
        if self._runner is not None:
            return self._runner.get_pool()
        if self._found is None:
            try:
                self._found = current_pool()
            except RuntimeError as error:
                raise RuntimeError(
                    "this test does not run in a pool: an asynchronous test needs the loop_pool "
                    "mark and, with pytest-asyncio, --loop-pool or `loop_pool = true`; with "
                    "anyio, a PoolFactory as the loop factory of its anyio_backend"
                ) from error
        return self._found

    @property
    def loops(self) -> tuple[EventLoop, ...]:
        """The loops, loop 0 first.

        Raises:
            RuntimeError: as of :attr:`pool`.
        """
        return self.pool.loops

    def stats(self) -> list[LoopStats]:
        """Return the figures of each loop. As ``Pool.stats``.

        Raises:
            RuntimeError: as of :attr:`pool`.
        """
        return self.pool.stats()


@pytest.fixture
def pool(request: pytest.FixtureRequest) -> Iterator[PoolFixture]:
    """The pool of a test: its own in a synchronous test, otherwise the one that it runs in.

    The mark ``loop_pool`` sets its arguments. At the end of the test the pool cancels its remaining
    tasks; the test fails if one does not end in time.
    """
    if inspect.iscoroutinefunction(request.function):
        yield PoolFixture(None)
        return
    node = request.node
    runner = Runner(**_options(request.config, node.get_closest_marker("loop_pool"), node.nodeid))
    try:
        runner.get_pool()
        yield PoolFixture(runner)
    finally:
        with _ending_well():
            runner.close()


@pytest.fixture(scope="session")
def loop_pool_backend() -> tuple[str, dict[str, Any]]:
    """A value for anyio's ``anyio_backend``: tests run on a single loop of this package."""
    return "asyncio", {"loop_factory": new_event_loop}


@final
class PoolFactory:
    """A loop factory: each loop is loop 0 of a new pool, which ends when the loop is closed.

    For APIs that accept a loop factory and close the loop with ``asyncio.Runner``: anyio's
    ``backend_options``, ``unittest.IsolatedAsyncioTestCase.loop_factory``, your own
    ``pytest_asyncio_loop_factories`` hook. If the pool logs an error at its end, the test fails
    with ``pytest.fail``.

    Args:
        options: those of :class:`loop_pool.Runner`. The default of ``loops`` is one per core, that
            of ``shutdown_timeout`` is :data:`SHUTDOWN_TIMEOUT`. Debug mode follows loop 0.

    Raises:
        ValueError, TypeError: as ``Runner``.

    Threads: called in the thread that will run the loop.
    """

    def __init__(self, **options: Any) -> None:
        self._options = {"shutdown_timeout": SHUTDOWN_TIMEOUT, **options}
        Runner(**self._options)  # for its checks

    def __repr__(self) -> str:
        return f"PoolFactory({', '.join(f'{k}={v!r}' for k, v in self._options.items())})"

    def __call__(self) -> EventLoop:
        """Start a pool and return its loop 0."""
        runner = Runner(**self._options)
        runner._runner = asyncio.Runner(debug=self._options.get("debug"), loop_factory=_PoolLoop)
        loop = runner.get_loop()
        assert isinstance(loop, _PoolLoop)
        loop._owned = runner
        return loop


class _PoolLoop(EventLoop):
    """Loop 0 of a pool that ends with it."""

    _owned: Runner | None = None
    """The runner of the pool, until that ends."""
    _ending = False
    """Whether the pool is ending, which would close this loop, its owner's, too."""

    def run_forever(self) -> None:
        """Run until ``stop()`` is called; an error on another loop ends every run, not only one."""
        if isinstance(self._pool, Pool):
            self._pool._begin_run()
        super().run_forever()

    def set_debug(self, enabled: bool) -> None:
        """Switch debug mode on or off for every loop of the pool."""
        super().set_debug(enabled)
        for loop in self._pool._loops[1:] if isinstance(self._pool, Pool) else ():
            loop.set_debug(enabled)

    def shutdown_asyncgens(self) -> Coroutine[Any, Any, None]:
        """Shut the pool down first: it may need this loop's generators and executor.

        ``asyncio.Runner`` calls this while the loop is not running, then runs the result.
        """
        if not self.is_running():
            self._end_pool()
        return super().shutdown_asyncgens()

    def close(self) -> None:
        """Close the pool, then the loop.

        Raises:
            RuntimeError: the loop is running.
        """
        try:
            if not self.is_running():
                self._end_pool()
        finally:
            if not self._ending:
                super().close()

    def _end_pool(self) -> None:
        runner, self._owned = self._owned, None
        if runner is None:
            return
        self._ending = True
        try:
            with _ending_well():
                runner.close()
        finally:
            self._ending = False


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def _ending_well() -> Iterator[None]:
    """Fail the test if the pool that ends meanwhile logs an error."""
    handler = _Errors()
    logger = logging.getLogger("loop_pool")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if handler.messages:
        pytest.fail(
            "\n".join(["the pool did not shut down cleanly:", *handler.messages]), pytrace=False
        )


def _options(config: pytest.Config, mark: pytest.Mark | None, test: str) -> dict[str, Any]:
    """The arguments of ``Runner`` for a test's pool.

    Raises:
        pytest.UsageError: the ini option ``loop_pool_loops`` is not a positive integer.
        pytest.fail.Exception: the mark's arguments are not those of ``Runner``.
    """
    options: dict[str, Any] = {"shutdown_timeout": SHUTDOWN_TIMEOUT}
    if mark is not None:
        if mark.args:
            pytest.fail(f"{test}: mark.loop_pool takes arguments by name only", pytrace=False)
        options |= mark.kwargs
    if "loops" not in options:
        options["loops"] = _default_loops(config)
    try:
        Runner(**options)
    except (TypeError, ValueError) as error:
        pytest.fail(f"{test}: mark.loop_pool: {error}", pytrace=False)
    return options


def _default_loops(config: pytest.Config) -> int:
    given = config.getini("loop_pool_loops")
    if not given:
        return min(max(2, _core._cores()[-1]), _MOST_LOOPS)
    try:
        loops = int(given)
    except ValueError:
        loops = 0
    if loops < 1:
        raise pytest.UsageError(
            f"the ini option loop_pool_loops must be an integer above zero, got {given!r}"
        )
    return loops
