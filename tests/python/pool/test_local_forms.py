"""What a factory of `loop_pool.LoopLocal` may return: how libraries hand out their clients."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any, Self

import pytest

import loop_pool

from .support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

pytestmark = [pytest.mark.usefixtures("clean_process"), pytest.mark.smoke]

CONTEXT = contextvars.ContextVar[str]("CONTEXT", default="outside")


class Log:
    """What happened, in order; each of it on the loop that asked, in the value's context."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._loop: Any = None

    def __call__(self, what: str) -> None:
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        assert loop is self._loop
        if what == "entered":
            CONTEXT.set("inside")
        elif what == "left":
            assert CONTEXT.get() == "inside"
        self.lines.append(what)


LOG = Log()


@pytest.fixture(autouse=True)
def log() -> list[str]:
    """What happened in the test."""
    global LOG
    LOG = Log()
    return LOG.lines


class Entered:
    """As aiomqtt.Client: usable once it is entered."""

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        LOG("entered")
        return self

    async def __aexit__(self, *error: object) -> None:
        assert error == (None, None, None)
        await asyncio.sleep(0)
        LOG("left")


class Makes:
    """As what aiobotocore's create_client returns: entering it makes the client."""

    async def __aenter__(self) -> str:
        LOG("entered")
        return "made by entering"

    async def __aexit__(self, *_: object) -> None:
        LOG("left")


class Closes(Entered):
    """As httpx.AsyncClient: may be entered, and needs not to be."""

    async def aclose(self) -> None:
        LOG("closed")

    def close(self) -> None:
        raise AssertionError("there is `aclose`")


class Opens(Closes):
    """As asyncpg.Pool: awaiting it opens it."""

    def __await__(self) -> Generator[Any, None, Self]:
        yield from asyncio.sleep(0).__await__()
        LOG("awaited")
        return self


class Disposes:
    """As SQLAlchemy's AsyncEngine."""

    async def dispose(self) -> None:
        await asyncio.sleep(0)
        LOG("disposed of")


class DisposesAtOnce:
    """As SQLAlchemy's Engine."""

    def dispose(self) -> None:
        LOG("disposed of")


class Both:
    """Can be closed and disposed of."""

    def close(self) -> None:
        LOG("closed")

    def dispose(self) -> None:
        raise AssertionError("there is `close`")


class Plain:
    """A context manager of the other kind, with an end of its own name."""

    def __enter__(self) -> str:
        LOG("entered")
        return "made by entering"

    def __exit__(self, *error: object) -> None:
        assert error == (None, None, None)
        LOG("left")


@contextlib.asynccontextmanager
async def generator() -> AsyncIterator[str]:
    LOG("entered")
    yield "made by entering"
    LOG("left")


@contextlib.contextmanager
def plain_generator() -> Iterator[str]:
    LOG("entered")
    yield "made by entering"
    LOG("left")


async def coroutine_of_entered() -> Entered:
    """Its author may have entered it, or started what entering starts."""
    await asyncio.sleep(0)
    return Entered()


async def coroutine_of_generator() -> Any:
    return generator()


ENTERED, CLOSED, DISPOSED = ["entered", "left"], ["closed"], ["disposed of"]
AWAITED = ["awaited", "closed"]


@pytest.mark.parametrize(
    ("factory", "enter", "what", "happens"),
    [
        (Entered, None, Entered, ENTERED),
        (Entered, True, Entered, ENTERED),
        (Entered, False, Entered, []),
        (Makes, None, str, ENTERED),
        (Makes, False, Makes, []),
        (Closes, None, Closes, CLOSED),
        (Closes, True, Closes, ENTERED),
        (Opens, None, Opens, AWAITED),
        (Opens, False, Opens, AWAITED),
        (Opens, True, Opens, ENTERED),
        (Disposes, None, Disposes, DISPOSED),
        (DisposesAtOnce, None, DisposesAtOnce, DISPOSED),
        (Both, None, Both, CLOSED),
        (Plain, None, Plain, []),
        (Plain, True, str, ENTERED),
        (generator, None, str, ENTERED),
        (generator, False, contextlib.AbstractAsyncContextManager, []),
        (plain_generator, None, str, ENTERED),
        (coroutine_of_entered, None, Entered, []),
        (coroutine_of_entered, True, Entered, ENTERED),
        (coroutine_of_generator, None, str, ENTERED),
        (contextlib.nullcontext, None, type(None), []),
        (asyncio.Lock, None, asyncio.Lock, []),
        (lambda: asyncio.Semaphore(1), None, asyncio.Semaphore, []),
        (asyncio.Condition, None, asyncio.Condition, []),
        (lambda: asyncio.Barrier(2), None, asyncio.Barrier, []),
    ],
)
def test_it_is_made_and_ended_as_it_asks_for(
    factory: Any, enter: bool | None, what: type, happens: list[str], log: list[str]
) -> None:
    local = loop_pool.LoopLocal[Any](factory, enter=enter)

    async def ask() -> Any:
        return await local

    async def main() -> None:
        loop = loop_pool.current_pool().loops[1]
        values = [await loop_pool.call(loop, ask) for _ in range(2)]
        assert values[0] is values[1]
        assert isinstance(values[0], what)
        if isinstance(values[0], (asyncio.Lock, asyncio.Semaphore, asyncio.Condition)):
            assert not values[0].locked()

    run(main)
    assert log == happens


def test_what_is_shared_by_all_loops_is_not_entered_either() -> None:
    sync = pytest.importorskip("loop_pool.sync", exc_type=ImportError)
    kinds = [sync.Lock, sync.Condition, lambda: sync.Semaphore(1), lambda: sync.Barrier(2)]
    locals_ = [loop_pool.LoopLocal[Any](kind) for kind in kinds]

    async def main() -> None:
        for local in locals_:
            assert local.get() is await local

    run(main)


@pytest.mark.parametrize("factory", [plain_generator, DisposesAtOnce, Both, asyncio.Lock])
def test_what_takes_no_await_can_be_got_at_once(factory: Any) -> None:
    local = loop_pool.LoopLocal[Any](factory)

    async def main() -> None:
        assert local.get() is await local

    run(main)


@pytest.mark.parametrize("factory", [Entered, Makes, generator, Opens])
def test_what_takes_an_await_says_so(factory: Any) -> None:
    local = loop_pool.LoopLocal[Any](factory)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="must be awaited or entered: await the LoopLocal"):
            local.get()
        assert await local is local.get()

    run(main)


@pytest.mark.parametrize("factory", [Entered, Closes, Plain, coroutine_of_entered])
def test_whoever_says_how_it_is_closed_has_it_as_it_is(factory: Any, log: list[str]) -> None:
    closed: list[Any] = []
    local = loop_pool.LoopLocal[Any](factory, close=closed.append)

    async def main() -> None:
        values.append(await local)

    values: list[Any] = []
    run(main)
    assert closed == values
    assert log == []


def test_one_that_is_entered_may_be_closed_in_the_program_s_way(log: list[str]) -> None:
    local = loop_pool.LoopLocal(Makes, close=lambda value: LOG(f"closes {value}"), enter=True)

    async def main() -> None:
        assert await local == "made by entering"

    run(main)
    assert log == ["entered", "closes made by entering"]


def test_what_fails_to_enter_is_tried_again(log: list[str]) -> None:
    class Fails(Entered):
        async def __aenter__(self) -> Self:
            if not failed:
                failed.append(True)
                raise ZeroDivisionError
            return await super().__aenter__()

    failed: list[bool] = []
    local = loop_pool.LoopLocal(Fails)

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await local
        assert isinstance(await local, Fails)

    run(main)
    assert log == ENTERED


@pytest.mark.parametrize("factory", [object, Disposes, lambda: asyncio.sleep(0)])
def test_what_cannot_be_entered_is_refused(factory: Any) -> None:
    local = loop_pool.LoopLocal[Any](factory, enter=True)

    async def main() -> None:
        with pytest.raises(TypeError, match="is not a context manager and cannot be entered"):
            await local

    run(main)


def test_enter_is_a_bool() -> None:
    with pytest.raises(TypeError, match="enter must be True, False or None, got 'yes'"):
        loop_pool.LoopLocal(object, enter="yes")  # type: ignore[call-overload]
