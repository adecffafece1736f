"""What a program hands us may be anything: a task factory's tasks, a TLS object.

Whatever it answers ends in an exception, for whoever waits: never in a crash, or a wait for ever.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from unittest import mock

import pytest

import loop_pool

from ..support import HANG, Recorder
from ..tls.support import shaken
from .support import run


class OddTask:
    """What a task factory may return: as much of a task as is asked for."""

    def __init__(self, coro: Any, **answers: Any) -> None:
        coro.close()
        self._answers = {"done": True, "exception": None, "result": 42, "get_name": "odd"}
        self._answers |= answers

    def __getattr__(self, name: str) -> Any:
        if name not in self._answers:
            raise AttributeError(name)
        return lambda: self._answer(self._answers[name])

    @staticmethod
    def _answer(answer: Any) -> Any:
        if isinstance(answer, type) and issubclass(answer, BaseException):
            raise answer("odd")
        return answer


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ({"exception": 42}, TypeError),
        ({"exception": object()}, TypeError),
        ({"exception": ()}, TypeError),
        ({"exception": ValueError}, ValueError),
        ({"exception": asyncio.CancelledError}, asyncio.CancelledError),
        ({"exception": asyncio.InvalidStateError}, asyncio.InvalidStateError),
        ({"exception": mock.Mock()}, TypeError),
        ({"exception": [object()] * 20}, TypeError),
        ({"result": KeyError}, KeyError),
        ({"get_name": KeyError}, 42),
        ({"get_name": object()}, 42),
        ({"done": KeyError}, KeyError),
        ({"done": 0}, AttributeError),  # and nothing to be told by
        ({"done": False, "add_done_callback": None}, TypeError),
    ],
    ids=[
        "number",
        "object",
        "tuple",
        "raises",
        "cancelled",
        "pending",
        "mock",
        "list",
        "result raises",
        "name raises",
        "odd name",
        "done raises",
        "tells nobody",
        "tells None",
    ],
)
@pytest.mark.parametrize("given", [True, False], ids=["loop", "any"])
def test_a_task_of_the_programs_factory_may_answer_anything(
    answers: dict[str, Any], outcome: Any, given: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **_: OddTask(coro, **answers))
        try:
            task: Any = loop_pool.spawn(_nothing(), loop=loop if given else None)  # type: ignore[arg-type]
        finally:
            ended = asyncio.Event()
            loop.call_soon(task.add_done_callback, lambda _: ended.set())
        await asyncio.wait_for(ended.wait(), HANG)
        loop.set_task_factory(None)
        repr(task)
        if isinstance(outcome, int):
            assert (task.result(), task.exception()) == (outcome, None)
        elif issubclass(outcome, asyncio.CancelledError):
            assert task.cancelled()
        else:
            assert type(task.exception()) is outcome
            with pytest.raises(outcome):
                task.result()

    run(main, loops=1)


class OddCoroutine:
    """A coroutine by its methods alone, which cannot be closed."""

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, *_: object) -> None:
        raise StopIteration

    def close(self) -> None:
        raise KeyError("close")

    def __await__(self) -> Any:
        return self

    __iter__ = __await__
    __next__ = send


@pytest.mark.parametrize("given", [True, False], ids=["loop", "any"])
def test_an_error_of_a_coroutine_that_is_closed_unbegun_ends_no_loop(given: bool) -> None:
    import collections.abc

    collections.abc.Coroutine.register(OddCoroutine)
    reported: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        coro: Any = OddCoroutine()
        task: Any = loop_pool.spawn(coro, loop=loop if given else None)  # type: ignore[arg-type]
        assert task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main, loops=1)
    assert [repr(error) for error in reported] == ["KeyError('close')"]


def test_only_an_exception_ends_a_task_whose_loop_has_ended() -> None:
    async def main() -> None:
        task: Any = loop_pool.spawn(asyncio.sleep(0))
        with pytest.raises(TypeError):
            task._abandon(42)
        await task

    run(main, loops=1)


@pytest.mark.parametrize(
    "odd", ["text", object(), bytearray(9), None, 42], ids=lambda odd: type(odd).__name__
)
def test_a_tls_object_of_the_program_may_return_anything(
    odd: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Proxy:
        """As much of `_ssl` as a connection needs."""

        def __init__(self, plain: Any) -> None:
            self._plain = plain

        def __getattr__(self, name: str) -> Any:
            return getattr(self._plain, name)

        def read(self, *arguments: Any) -> Any:
            self._plain.read(*arguments)
            return odd

    wrap_bio = ssl.SSLContext.wrap_bio

    def wrap(context: ssl.SSLContext, *args: Any, **more: Any) -> Any:
        made: Any = wrap_bio(context, *args, **more)
        if made.server_side:
            made._sslobj = Proxy(made._sslobj)
        return made

    reported: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context.get("exception")))
        monkeypatch.setattr(ssl.SSLContext, "wrap_bio", wrap)
        async with shaken(Recorder) as (_, protocol, peer):
            await peer.send(peer.seal(b"hello"))
            await protocol.ended()
            assert protocol.data == b""

    run(main, loops=1)
    assert [type(error) for error in reported] == [TypeError]
