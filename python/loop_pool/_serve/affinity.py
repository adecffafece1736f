"""``receive`` and ``send`` of an ASGI connection, for applications that use them on any loop.

They belong to the loop that serves the connection: its parser, queue and WebSocket state are not
thread-safe. An application on several loops passes them around as soon as one handler sends to
other handlers' connections, as in a broadcast. A call awaited on another loop is therefore run on
the connection's loop.
"""

from __future__ import annotations

import contextlib
from asyncio import CancelledError, Task, _get_running_loop, get_running_loop
from typing import TYPE_CHECKING, Any, final

from .._loop.thread_affinity import await_on_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    type App = Callable[[Any, Any, Any], Awaitable[None]]


@final
class _Connection:
    """The two callables of one connection. The methods belong to any loop.

    They are coroutine functions, as the loop that counts is the one that awaits the call: a
    coroutine may be made on one loop and spawned on another.
    """

    __slots__ = ("_arrived", "_loop", "_receive", "_send")

    def __init__(self, receive: Any, send: Any) -> None:
        self._loop = get_running_loop()
        # Received for another loop and not fetched there yet. If the wait is cancelled at that
        # moment, the message stays for who asks next.
        self._arrived: list[Any] = []
        self._receive = receive
        self._send = send

    async def receive(self) -> Any:
        """Return the next message of the client."""
        while True:
            if self._arrived:
                with contextlib.suppress(IndexError):  # somebody else was quicker
                    return self._arrived.pop(0)
            if _get_running_loop() is self._loop:
                return await self._receive()
            try:
                await await_on_loop(self._loop, self._take_in)
            except CancelledError:
                # Perhaps before the call started: a caller that polls without waiting, such as
                # Starlette's `is_disconnected`, would never see the message otherwise.
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._look)
                raise

    async def _take_in(self) -> None:
        self._arrived.append(await self._receive())

    def _look(self) -> None:
        """Take in what can be had without waiting, for who asks next. The connection's loop."""
        if not self._arrived:
            task = Task(self._take_in(), loop=self._loop, eager_start=True)
            if not task.done():
                task.cancel()
            elif not task.cancelled():
                task.exception()  # who asks next gets one as well

    async def send(self, message: Any) -> None:
        """Send a message to the client."""
        if _get_running_loop() is self._loop:
            await self._send(message)
        else:
            await await_on_loop(self._loop, self._send, message)


def usable_on_every_loop(app: App) -> App:
    """Return the application with ``receive`` and ``send`` that may be awaited on every loop.

    On another loop than the connection's a call is begun there, behind those that were begun
    before. The awaiter waits for its end, so a slow client slows down who sends to it; what it
    raises is raised here; a cancellation goes there.
    """

    def bound(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        connection = _Connection(receive, send)
        return app(scope, connection.receive, connection.send)

    return bound
