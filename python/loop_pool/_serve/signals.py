"""What ends ``loop_pool.serve``: signals, and requests to uvicorn's server to exit.

Libraries that must detect shutdown (for endless event streams) use uvicorn: they replace
``uvicorn.Server.handle_exit``, or take the ``Server`` from a signal handler and read
``should_exit``. So there is such a server, and its method is the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from typing import TYPE_CHECKING, Any, final

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

logger = logging.getLogger("uvicorn.error")

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that end the server."""


@final
class UvicornServer(uvicorn.Server):
    """What looks for uvicorn's server finds this one. It serves nothing itself.

    Args:
        config: as uvicorn has it.
        signalled: called when a signal has come.
        asked: called when ``should_exit`` was set.
        forced: called when ``force_exit`` was set.

    All are called on the loop that it is made on.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        signalled: Callable[[signal.Signals], None],
        asked: Callable[[], None],
        forced: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._signalled = signalled
        self._asked = asked
        self._forced = forced
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether the server ends. Setting it ends the server, from any thread."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if value:
            self._post(self._asked)

    @property
    def force_exit(self) -> bool:
        """Whether it ends without waiting. As ``should_exit``."""
        return self._force_exit

    @force_exit.setter
    def force_exit(self, value: bool) -> None:
        self._force_exit = value
        if value:
            self._post(self._forced)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: in the main thread, between any two instructions."""
        self._post(self._signalled, signal.Signals(sig))

    def end(self, sig: signal.Signals | None) -> None:
        """Let everybody know that the server ends now, who has asked uvicorn to be told."""
        try:
            if sig is not None:
                # What a library has put in its place, too.
                super().handle_exit(sig, None)
        except Exception:
            logger.exception("uvicorn.Server.handle_exit failed")
        self.should_exit = True

    @contextlib.contextmanager
    def taking_signals(self) -> Iterator[None]:
        """Take the signals that end the server, where this thread may, and nobody ignores them."""
        before: dict[signal.Signals, Any] = {}
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in ENDING}
        ours = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
        for number in ours:
            signal.signal(number, self.handle_exit)
            signal.siginterrupt(number, False)
        try:
            yield
        finally:
            for number, old in ours.items():
                if old is not None:  # None: it was set by no Python code
                    signal.signal(number, old)

    def _post(self, callback: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback, *args)
