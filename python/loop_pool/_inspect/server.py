"""The inspection server: answers requests about a running pool on a private unix socket.

The socket is ``<pid>.sock`` in a directory of the user (``sockets``), ``<pid>-2.sock`` and so on
for further pools of the process. Processes of the same user and of root are answered. Each request
and each answer is a line of JSON:

    -> {"version": 1, "request": "stats"}
    <- {"version": 1, "loops": [...], ...}
    -> {"version": 1, "request": "snapshot", "loop": 0, "limit": 100}
    <- {"version": 1, "loops": [...], "tasks": [...], ...}
    <- {"version": 1, "error": "..."}           for an invalid request

``loop`` and ``limit`` are optional. ``snapshot`` documents the answer. One thread serves all
clients, independent of the loops, so a stuck loop does not block it. A client is dropped if it is
silent for :data:`SILENCE` seconds, sends more than :data:`MAX_REQUEST` bytes for a request, or does
not read its answer. With :data:`MAX_CLIENTS` clients, those idle for a second make room for others.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, final

from .snapshot import LIMIT, Observer
from .sockets import MAX_CLIENTS, folder, is_allowed, listen

if TYPE_CHECKING:
    from .._pool.pool import Pool

logger = logging.getLogger("loop_pool")

VERSION = 1
"""Of the protocol."""

MAX_REQUEST = 4096
"""Bytes."""

SILENCE = 5.0
"""Seconds in which a client must have sent a request, or taken an answer."""

_REST = 1.0
"""Seconds without accepting after that has failed: the process is out of descriptors. Also those
that a client may be silent while others wait for its place."""

_FRESH = 0.1
"""Seconds for which an answer is given to others who ask the same."""

_LINGER = 5.0
"""Seconds that the end of the pool waits for the thread."""


@final
class _Client:
    """A connection, and what is left to read from it and to write to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = bytearray()
        self.answer = memoryview(b"")
        self.ends = False
        """Whether it is dropped when it has its answer."""
        self.deadline = 0.0
        self.heard()

    def heard(self) -> None:
        """Give it the time for another request, or to take its answer."""
        self.deadline = time.monotonic() + SILENCE


@final
class Inspector:
    """Serves one pool, from its making to :meth:`stop`. Made in the thread that runs loop 0.

    Raises:
        PermissionError: the folder of the sockets is not the user's alone.
        OSError: the socket cannot be made: there is no room, or it is out of descriptors.
        RuntimeError: the process is out of threads.
    """

    def __init__(self, pool: Pool) -> None:
        self._observer = Observer(pool)
        place = folder()
        with contextlib.ExitStack() as undo:
            self._listener, self.path = listen(place)
            undo.callback(self._listener.close)
            undo.callback(self.path.unlink, missing_ok=True)
            self._waker, self._woken = socket.socketpair()
            undo.callback(self._waker.close)
            undo.callback(self._woken.close)
            self._waker.setblocking(False)
            self._thread = threading.Thread(
                target=self._serve, name="loop-pool-inspect", daemon=True
            )
            self._prepare()
            self._thread.start()
            undo.pop_all()
        _serving.add(self)
        atexit.register(self.stop)

    def _prepare(self) -> None:
        self._clients: dict[int, _Client] = {}
        self._stopping = False
        self._rests_until: float | None = None
        self._selector = selectors.PollSelector()  # it needs no descriptor
        self._made: dict[tuple[Any, ...], tuple[float, bytes]] = {}
        """Answers, and until when they are fresh."""

    def stop(self) -> None:
        """Remove the socket, end the thread and wait for it. Any thread; again does nothing.

        In a forked child it leaves the parent's socket alone.
        """
        try:
            _serving.remove(self)
        except KeyError:
            return
        atexit.unregister(self.stop)
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended, by an error that was logged
            self._waker.send(b"\0")
        self._thread.join(_LINGER)
        if self._thread.is_alive():
            logger.error("the inspection thread did not end in time")

    def _forget(self) -> None:
        """In a forked child: keep nothing of the parent's open. There is no thread."""
        for sock in (self._listener, self._waker, self._woken):
            sock.close()
        for client in self._clients.values():
            client.sock.close()

    # -- in the thread ----------------------------------------------------------------------------

    def _serve(self) -> None:
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        try:
            while not self._stopping:
                ready = self._selector.select(self._select_timeout())
                now = time.monotonic()  # who was late by then is, not who had to wait for others
                for key, _ in ready:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif (client := self._clients.get(key.fd)) is not None:
                        self._advance(client)
                self._look_at_the_clock(now)
        except Exception:
            logger.exception(
                "the inspection thread failed: loop-pool ps and top cannot inspect this process"
            )
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            self._selector.close()
            for sock in (self._listener, self._waker, self._woken):
                sock.close()

    def _select_timeout(self) -> float | None:
        moments = [client.deadline for client in self._clients.values()]
        if self._rests_until is not None:
            moments.append(self._rests_until)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _look_at_the_clock(self, now: float) -> None:
        if not self._clients:
            self._made.clear()
        for client in list(self._clients.values()):
            if client.deadline <= now:
                self._drop(client)
        if self._rests_until is not None and self._rests_until <= now:
            self._rests_until = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _accept(self) -> None:
        if len(self._clients) >= MAX_CLIENTS and not self._make_room():
            self._rest(_FRESH)
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError, ConnectionError:
            return
        except OSError:
            self._rest(_REST)
            return
        if not is_allowed(sock):
            sock.close()
            return
        sock.setblocking(False)
        self._clients[sock.fileno()] = _Client(sock)
        self._selector.register(sock, selectors.EVENT_READ)

    def _make_room(self) -> bool:
        """Drop who has asked nothing for longest, if that is long."""
        idle = [client for client in self._clients.values() if not client.answer]
        if not idle:
            return False
        longest = min(idle, key=lambda client: client.deadline)
        if longest.deadline - SILENCE + _REST > time.monotonic():
            return False
        self._drop(longest)
        return True

    def _rest(self, seconds: float) -> None:
        """Accept nobody for a while."""
        self._selector.unregister(self._listener)
        self._rests_until = time.monotonic() + seconds

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        self._selector.unregister(client.sock)
        client.sock.close()

    def _advance(self, client: _Client) -> None:
        """Read from a client, answer it, write to it, as far as that goes without waiting."""
        try:
            if not client.answer:
                data = client.sock.recv(MAX_REQUEST)
                if not data:
                    self._drop(client)
                    return
                client.request += data
            self._answer(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _answer(self, client: _Client) -> None:
        while True:
            if client.answer:
                try:
                    sent = client.sock.send(client.answer)
                except BlockingIOError:
                    self._selector.modify(client.sock, selectors.EVENT_WRITE)
                    return
                client.answer = client.answer[sent:]
                client.heard()
                continue
            if client.ends:
                self._drop(client)
                return
            line, end, rest = client.request.partition(b"\n")
            if not end and len(line) <= MAX_REQUEST:
                self._selector.modify(client.sock, selectors.EVENT_READ)
                return
            client.request = rest
            try:
                if len(line) > MAX_REQUEST:
                    raise _BadRequestError(f"a request must not exceed {MAX_REQUEST} bytes")
                answer = self._reply(bytes(line))
            except _BadRequestError as error:
                answer = _line({"error": str(error)})
                client.ends = True
            client.answer = memoryview(answer)
            client.heard()

    def _reply(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except ValueError, RecursionError:
            raise _BadRequestError("a request must be a line of JSON") from None
        if not isinstance(request, dict) or request.get("version") != VERSION:
            raise _BadRequestError(f"a request must be an object with version {VERSION}")
        loop, limit = request.get("loop"), request.get("limit", LIMIT)
        if loop is not None and (type(loop) is not int or loop < 0):
            raise _BadRequestError("loop must be the index of a loop")
        if type(limit) is not int or not 0 <= limit <= LIMIT:
            raise _BadRequestError(f"limit must be an integer from 0 to {LIMIT}")
        kind = request.get("request")
        if not isinstance(kind, str) or kind not in {"stats", "snapshot"}:
            raise _BadRequestError("request must be stats or snapshot")
        key = (kind, loop, limit) if kind == "snapshot" else (kind,)
        fresh_until, answer = self._made.get(key, (0.0, b""))
        if time.monotonic() < fresh_until:
            return answer
        try:
            observer = self._observer
            answer = _line(
                observer.snapshot(loop, limit) if kind == "snapshot" else observer.stats()
            )
        except IndexError:
            raise _BadRequestError(f"there is no loop {loop}") from None
        except Exception as error:
            logger.exception("a request of loop-pool ps or top failed")
            raise _BadRequestError(f"the pool cannot be inspected: {error!r}") from error
        self._made = {key: made for key, made in self._made.items() if made[0] > time.monotonic()}
        self._made[key] = time.monotonic() + _FRESH, answer
        return answer


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, **answer}).encode() + b"\n"


class _BadRequestError(Exception):
    """What a client asked cannot be answered."""


_serving: set[Inspector] = set()
"""The inspectors of this process that are to be stopped."""


def _forget_all() -> None:
    for inspector in _serving:
        inspector._forget()
    _serving.clear()


os.register_at_fork(after_in_child=_forget_all)
