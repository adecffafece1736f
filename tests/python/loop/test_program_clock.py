"""A loop whose clock is the program's: timers follow it, as virtual clocks want."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any
from unittest import mock

import pytest

from ..support import HANG, LoopFactory, check_script, class_of, run_main, turns

type Loop = asyncio.AbstractEventLoop


async def _is_due(jump: Any) -> bool:
    fired: list[bool] = []
    asyncio.get_running_loop().call_later(30, fired.append, True)
    await turns()
    assert not fired
    jump()
    await turns()
    return bool(fired)


@pytest.mark.parametrize("what", ["loop", "module"])
def test_a_patched_clock_is_followed(loop: Loop, what: str) -> None:
    async def main() -> None:
        now = loop.time()
        target: Any = loop if what == "loop" else time
        name = "time" if what == "loop" else "monotonic"
        with mock.patch.object(target, name, return_value=now) as clock:
            assert loop.time() == now
            assert await _is_due(lambda: setattr(clock, "return_value", now + 31))
        assert 0 <= loop.time() - now < HANG
        assert await asyncio.wait_for(asyncio.sleep(0.001, "slept"), HANG) == "slept"

    loop.run_until_complete(main())


def _with_a_clock(base: Any) -> Any:
    """A subclass whose time can be set ahead."""

    class Ahead(base):  # type: ignore[misc]
        ahead = 0.0

        def time(self) -> float:
            return float(super().time() + self.ahead)

    return Ahead


def test_an_overridden_time_is_followed(loop_factory: LoopFactory) -> None:
    loop = _with_a_clock(class_of(loop_factory))()
    try:
        assert loop.run_until_complete(_is_due(lambda: setattr(loop, "ahead", 31.0)))
    finally:
        loop.close()


def test_a_running_loop_may_be_given_a_class_with_a_clock(loop: Loop) -> None:
    base: Any = type(loop)

    async def main() -> None:
        loop.__class__ = _with_a_clock(base)
        assert await _is_due(lambda: setattr(loop, "ahead", 31.0))
        loop.__class__ = base

    loop.run_until_complete(main())


def _class_that_has_time(loop: Any, which: str) -> Any:
    """The class whose `time` is patched."""
    if which == "own":
        return type(loop)
    return getattr(asyncio, which)


@pytest.mark.parametrize("which", ["own", "SelectorEventLoop", "BaseEventLoop"])
def test_a_class_patched_while_the_loop_runs_is_followed(loop: Loop, which: str) -> None:
    async def main() -> None:
        now = real = loop.time()

        def fake(_: object) -> float:
            return now

        with mock.patch.object(_class_that_has_time(loop, which), "time", fake):
            assert loop.time() == now
            fired: list[bool] = []
            loop.call_later(30, fired.append, True)
            await turns()
            assert not fired
            now += 31
            await turns()
            assert fired
        assert 0 <= loop.time() - real < HANG
        assert await asyncio.wait_for(asyncio.sleep(0.001, "slept"), HANG) == "slept"

    loop.run_until_complete(main())
    assert loop.run_until_complete(asyncio.sleep(0.001, "slept")) == "slept"


def test_bases_of_a_class_may_be_patched_while_the_loop_runs(loop_factory: LoopFactory) -> None:
    base: Any = class_of(loop_factory)

    class Mixin:
        pass

    class Outer(Mixin, base):  # type: ignore[misc]
        pass

    async def main() -> None:
        for kind in (Mixin, base, Outer):
            now = loop.time()
            with mock.patch.object(kind, "time", return_value=now, create=True) as clock:
                assert await _is_due(lambda: setattr(clock, "return_value", now + 31))  # noqa: B023
            assert await asyncio.wait_for(asyncio.sleep(0.001, "slept"), HANG) == "slept"

    loop = Outer()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("what", ["time", "time.monotonic"])
def test_a_clock_patched_in_asyncio_while_the_loop_runs_is_followed(loop: Loop, what: str) -> None:
    async def main() -> None:
        now = loop.time()
        with mock.patch(f"asyncio.base_events.{what}") as patched:
            clock = patched.monotonic if what == "time" else patched
            clock.return_value = now
            assert loop.time() == now
            assert await _is_due(lambda: setattr(clock, "return_value", now + 31))
        assert 0 <= loop.time() - now < HANG
        assert await asyncio.wait_for(asyncio.sleep(0.001, "slept"), HANG) == "slept"

    loop.run_until_complete(main())


def test_a_call_at_patched_while_the_loop_runs_is_asked(loop: Loop) -> None:
    kind: Any = type(loop)
    call_at = kind.call_at
    asked: list[float] = []

    def ask(self: Any, when: float, *args: Any, **keywords: Any) -> Any:
        asked.append(when)
        return call_at(self, when, *args, **keywords)

    async def main() -> None:
        with mock.patch.object(kind, "call_at", ask):
            assert await asyncio.sleep(0.001, "slept") == "slept"
        assert len(asked) == 1
        await asyncio.sleep(0.001)
        assert len(asked) == 1

    loop.run_until_complete(main())


@pytest.mark.loop_pool_only
def test_a_class_patched_on_one_loop_is_followed_by_all() -> None:
    import loop_pool

    async def on_each(now: float, after: float) -> bool:
        assert asyncio.get_running_loop().time() == now
        return await _is_due(lambda: clocks.update({threading.get_ident(): after}))

    async def main() -> None:
        now = time.monotonic()

        def fake(_: object) -> float:
            return clocks.get(threading.get_ident(), now)

        with mock.patch.object(loop_pool.EventLoop, "time", fake):
            pool = loop_pool.current_pool()
            tasks = [loop_pool.spawn(on_each(now, now + 31), loop=loop) for loop in pool.loops]
            assert all([await task for task in tasks])

    clocks: dict[int, float] = {}
    loop_pool.run(main(), loops=3)


def test_call_later_asks_the_programs_call_at(loop_factory: LoopFactory) -> None:
    base: Any = class_of(loop_factory)
    asked: list[Any] = []

    class Asking(base):  # type: ignore[misc]
        def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
            asked.append((callback, args))
            return super().call_at(when, callback, *args, context=context)

    async def main() -> None:
        future = loop.create_future()
        loop.call_later(0.001, future.set_result, 42)
        assert await asyncio.wait_for(future, HANG) == 42
        assert asked[0] == (future.set_result, (42,))

    loop = Asking()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_a_wrapped_select_may_leap_over_the_wait(loop_factory: LoopFactory) -> None:
    base: Any = class_of(loop_factory)

    class Virtual(base):  # type: ignore[misc]
        now = 0.0

        def time(self) -> float:
            return self.now

    loop = Virtual()
    select = loop._selector.select

    def leap(timeout: float | None = None) -> Any:
        found = select(0)
        if not found:
            loop.now += timeout or 0
        return found

    async def main() -> None:
        assert await asyncio.wait_for(asyncio.sleep(3600, "slept"), 7200) == "slept"
        assert 3600 <= loop.now < 3601
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 86400 * 3)
        # What is there comes before the clock leaps.
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.send(b"hello")
            before = loop.now
            assert await asyncio.wait_for(loop.sock_recv(near, 100), 10) == b"hello"
            assert loop.now == before

    try:
        loop._selector.select = leap
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_the_selector_itself_may_be_wrapped(loop: Loop) -> None:
    waits: list[float | None] = []
    inner: Any = loop._selector  # type: ignore[attr-defined]

    class Wrapper:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def select(self, timeout: float | None = None) -> Any:
            waits.append(timeout)
            return inner.select(timeout)

    async def main() -> None:
        await asyncio.sleep(0.01)

    loop._selector = Wrapper()  # type: ignore[attr-defined]
    run_main(loop, main())
    assert any(wait is not None and 0 < wait <= 0.01 for wait in waits)


def test_a_class_patched_before_the_loop_runs_is_followed(loop: Loop) -> None:
    async def main(clock: Any) -> None:
        assert loop.call_later(3, print).when() == 8.0
        assert await _is_due(lambda: setattr(clock, "return_value", 36.0))

    with mock.patch.object(type(loop), "time", return_value=5.0) as clock:
        loop.run_until_complete(main(clock))
    assert loop.run_until_complete(asyncio.sleep(0.001, "slept")) == "slept"


@pytest.mark.loop_pool_only
def test_a_clock_patched_before_the_import_is_followed_until_it_is_put_back() -> None:
    check_script("""
        import asyncio, time
        from unittest import mock

        with mock.patch("time.monotonic", return_value=5.0) as clock:
            import loop_pool

            async def main():
                loop, fired = asyncio.get_running_loop(), []
                assert loop.time() == 5.0
                loop.call_later(30, fired.append, True)
                for now in (5.0, 36.0):
                    assert not fired
                    clock.return_value = now
                    for _ in range(10):
                        await asyncio.sleep(0)
                assert fired

            with asyncio.Runner(loop_factory=loop_pool.new_event_loop) as runner:
                runner.run(main())
        loop = loop_pool.new_event_loop()
        before = time.monotonic()
        assert before <= loop.time() <= time.monotonic()
        loop.close()
    """)
