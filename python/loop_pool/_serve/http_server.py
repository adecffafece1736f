"""What serves the HTTP connections of one loop: the contract between ``LoopServer`` and each kind.

There are two kinds: uvicorn's protocols (``uvicorn_http``), and the server in Rust
(``native_http``). A ``LoopServer`` starts and drains either without knowing which it has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection

    type App = Callable[[Any, Any, Any], Awaitable[None]]


class HTTPServer(Protocol):
    """Makes the protocol of each connection, and knows the connections and requests there are.

    Everything belongs to the loop, except ``requests``, ``connections`` and ``tasks``, of which any
    thread may take the number.
    """

    @property
    def requests(self) -> int:
        """How many requests were answered."""

    @property
    def connections(self) -> Collection[Any]:
        """The protocols of the open connections, each with its ``transport`` and ``client``."""

    @property
    def tasks(self) -> Collection[asyncio.Task[Any]]:
        """The tasks of unfinished requests and WebSockets."""

    def start(self, state: dict[str, Any]) -> None:
        """Get ready for connections. ``state``: of the lifespan; each request gets a copy."""

    def make_protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""

    def leave(self) -> None:
        """Close each connection with its next response, from now on."""

    def stop(self) -> None:
        """Release what ``start`` began."""

    def answer_at(self, listener: Any) -> None:
        """Answer for readiness on connections that are accepted while no loop gets to them."""

    def is_idle(self, connection: Any) -> bool:
        """Return whether a connection waits for a request. A WebSocket never does."""

    def had_request(self, connection: Any) -> bool:
        """Return whether a connection has received a request at all."""

    def shut_down(self, connection: Any) -> None:
        """Close a connection: now if it is idle, otherwise once its response is complete.

        A WebSocket is closed with code 1012.
        """

    def unfinished(self, connection: Any) -> list[str]:
        """Return what is under way on a connection, in words. Empty if it is idle."""
