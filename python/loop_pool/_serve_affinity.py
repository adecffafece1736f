"""``receive`` and ``send`` of an ASGI connection, for applications that use them on any loop.

A connection's ``receive`` and ``send`` belong to the loop that serves it: what they touch (a
parser, a queue, a WebSocket's state) bears one thread. An application on several loops hands them
about as soon as one handler sends to the connections of others: a broadcast, for instance. Here
each call that is awaited on another loop is made on the connection's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ._thread_affinity import await_on_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    type App = Callable[[Any, Any, Any], Awaitable[None]]


def usable_on_every_loop(app: App) -> App:
    """Return the application with ``receive`` and ``send`` that may be awaited on every loop.

    On another loop than the connection's a call is begun there, behind those that were begun
    before. The awaiter waits for its end, so a slow client slows down who sends to it; what it
    raises is raised here; a cancellation goes there.
    """

    def bound(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        loop = asyncio.get_running_loop()
        running = asyncio._get_running_loop

        # Coroutine functions, as the loop that counts is the one that awaits the call: a coroutine
        # may be made here and spawned elsewhere.
        async def receive_there() -> Any:
            if running() is loop:
                return await receive()
            return await await_on_loop(loop, receive)

        async def send_there(message: Any) -> None:
            if running() is loop:
                await send(message)
            else:
                await await_on_loop(loop, send, message)

        return app(scope, receive_there, send_there)

    return bound
