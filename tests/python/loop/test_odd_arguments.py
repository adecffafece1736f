"""Arguments that few programs give, each as asyncio's loop takes them."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import fractions
import gc
import socket
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from ..support import ORACLE_ONLY, run_main

type Loop = asyncio.AbstractEventLoop


async def _nothing() -> None: ...


def _make_task(loop: Any, **options: Any) -> None:
    coro = _nothing()
    try:
        loop.create_task(coro, **options).cancel()
    finally:
        coro.close()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda loop: loop.call_later(decimal.Decimal(1), int), TypeError),
        (lambda loop: loop.call_later("1", int), TypeError),
        (lambda loop: loop.call_later(10**400, int), OverflowError),
        (lambda loop: _make_task(loop, loop=loop), TypeError),
        (lambda loop: _make_task(loop, loop=loop, name="x"), TypeError),
        (lambda loop: _make_task(loop, loop=loop, eager_start=True), TypeError),
        (lambda loop: loop.add_reader(2**31, int), OverflowError),
        (lambda loop: loop.add_writer(2**70, int), OverflowError),
        (lambda loop: loop.remove_reader(-1), ValueError),
        (lambda loop: loop.call_soon(int, **{"\ud800": 1}), TypeError),
        (lambda loop: loop.call_later(1, int, **{"\ud800": 1}), TypeError),
        (lambda loop: loop.call_soon_threadsafe(int, **{"\ud800": 1}), TypeError),
    ],
)
def test_what_is_refused(loop: Any, call: Callable[[Any], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(loop)


@pytest.mark.parametrize(
    "call",
    [
        lambda loop: loop.call_later(fractions.Fraction(1, 2), int).cancel(),
        lambda loop: loop.call_later(True, int).cancel(),
        lambda loop: loop.call_at(10**400, int).cancel(),
        lambda loop: loop.call_at(float("inf"), int).cancel(),
    ],
)
def test_what_is_taken(loop: Any, call: Callable[[Any], Any]) -> None:
    call(loop)


@pytest.mark.parametrize("number", [2**31, 2**70, 10**6])
def test_a_number_that_no_descriptor_has_is_not_watched(loop: Loop, number: int) -> None:
    socket_like = mock.Mock(**{"fileno.return_value": number})
    for source in (number, socket_like):
        assert loop.remove_reader(source) is False
        assert loop.remove_writer(source) is False


@pytest.mark.loop_pool_only  # asyncio fails when it subtracts
def test_a_deadline_beyond_all_numbers_never_comes(loop: Loop) -> None:
    fired: list[int] = []

    async def main() -> None:
        loop.call_at(10**400, fired.append, 1)
        loop.call_at(-(10**400), fired.append, 2)
        await asyncio.sleep(0.001)

    run_main(loop, main())
    assert fired == [2]


@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.parametrize("kind", ["stream", "datagram", "read", "write"])
def test_who_connects_hears_of_a_protocol_without_connection_made(loop: Loop, kind: str) -> None:
    class NoMethods:
        pass

    async def main() -> None:
        make: Any = NoMethods
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            with pytest.raises(AttributeError, match="connection_made"):
                if kind == "stream":
                    await loop.create_connection(make, sock=one)
                elif kind == "read":
                    await loop.connect_read_pipe(make, one)
                elif kind == "write":
                    await loop.connect_write_pipe(make, one)
                else:
                    await loop.create_datagram_endpoint(make, local_addr=("127.0.0.1", 0))

    run_main(loop, main())


def _schedule_all(loop: Loop, ran: list[str], context: Any) -> None:
    loop.call_soon(ran.append, "soon", context=context)
    loop.call_soon_threadsafe(ran.append, "posted", context=context)
    loop.call_later(0, ran.append, "timer", context=context)


@pytest.mark.parametrize("debug", [False, True])
def test_a_context_that_is_entered_already_is_an_error_of_the_callback(
    loop: Loop, debug: bool
) -> None:
    variable = contextvars.ContextVar("variable", default=0)
    context = contextvars.copy_context()
    ran: list[str] = []
    errors: list[str] = []
    loop.set_debug(debug)
    # The whole method: the program's handler would be called in the callback's context.
    loop.call_exception_handler = lambda info: errors.append(str(info["exception"]))  # type: ignore[method-assign]

    def inside() -> None:
        variable.set(7)
        _schedule_all(loop, ran, context)
        coro = _nothing()
        task = loop.create_task(coro, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.call_later(0.01, loop.stop, context=contextvars.copy_context())
        loop.run_forever()
        coro.close()
        assert variable.get() == 7  # still inside

    context.run(inside)
    gc.collect()  # nobody will ever run the task
    assert ran == []
    assert [error[:20] for error in errors] == ["cannot enter context"] * 4


@pytest.mark.parametrize("debug", [False, True])
def test_a_context_of_the_program_s_own_kind_is_asked_to_run(loop: Loop, debug: bool) -> None:
    class Context:
        runs = 0

        def run(self, callback: Callable[..., object], *args: object) -> object:
            self.runs += 1
            return callback(*args)

    async def main() -> str:
        await asyncio.sleep(0)
        return "done"

    ran: list[str] = []
    context: Any = Context()
    loop.set_debug(debug)
    _schedule_all(loop, ran, context)
    # Since Python 3.15 a task takes none but the interpreter's own kind.
    takes_any = sys.version_info < (3, 15)
    task = loop.create_task(main(), context=context if takes_any else contextvars.Context())
    assert run_main(loop, asyncio.wait_for(task, 5)) == "done"
    run_main(loop, asyncio.sleep(0.01))
    assert sorted(ran) == ["posted", "soon", "timer"]
    assert context.runs >= (5 if takes_any else 3)


def test_what_is_no_context_is_an_error_of_the_callback(loop: Loop) -> None:
    ran: list[str] = []
    errors: list[BaseException] = []
    loop.call_exception_handler = lambda info: errors.append(info["exception"])  # type: ignore[method-assign]
    for context in (5, "x", object()):
        _schedule_all(loop, ran, context)
    run_main(loop, asyncio.sleep(0.01))
    assert ran == []
    assert [type(error) for error in errors] == [AttributeError] * 9
    assert all("'run'" in str(error) for error in errors)


@pytest.mark.skipif(ORACLE_ONLY, reason="asyncio's loops do not tell")
def test_the_repr_tells_loops_apart() -> None:
    import loop_pool

    async def main() -> list[str]:
        return [repr(loop) for loop in loop_pool.current_pool().loops]

    of_pool = loop_pool.run(main(), loops=2)
    one, other = loop_pool.new_event_loop(), loop_pool.new_event_loop()
    assert len({*of_pool, repr(one), repr(other)}) == 4
    assert [f"index={index} pool=0x" in of_pool[index] for index in range(2)] == [True] * 2
    assert all("running=True closed=False" in text for text in of_pool)
    assert "running=False closed=False debug=False" in repr(one)
    one.close()
    other.close()
    assert "closed=True" in repr(one)
