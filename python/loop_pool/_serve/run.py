"""One run of ``loop_pool.serve``: start, serve, shut down.

An HTTP server on each loop (``http_server``) provides the protocols; the pool accepts connections
and places each on the less loaded of two loops. Each loop has its own lifespan (``loop_server``).
Shutdown begins with a signal or ``limit_max_requests``: readiness answers 503 for
``shutdown_delay`` seconds; the listeners close; every loop drains for ``timeout_drain`` seconds; at
the deadline unfinished requests are logged and cancelled; the lifespans end, then the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import itertools
import logging
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any, final

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from .._loop.listeners import responder
from .._pool.aggregate import call
from .._pool.grace import GRACE
from .._pool.pool import current_pool
from .._pool.server import Server, create_server
from .._pool.spawn import error_of
from . import native_http, sockets
from .access_log import AccessFormat, logged
from .affinity import usable_on_every_loop
from .certificates import Certificates, renews
from .health import Health
from .limit import ConcurrencyLimit
from .loop_server import LoopServer, only_news
from .native_http import NativeHTTP
from .plan import VARIABLES, OptionError, Plan, StartupError, checked, config_of, imported, load
from .signals import UvicornServer
from .uvicorn_http import UvicornHTTP

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

    import uvicorn

    from .._loop.event_loop import EventLoop
    from .http_server import App, HTTPServer

logger = logging.getLogger("uvicorn.error")

ECHO = 1.0
"""Seconds in which a second signal is the first one again, which a parent process passed on."""

TICK = 0.1
"""Seconds between two looks at the number of requests, where that is limited."""

HANDSHAKE = 0.005
"""Seconds that a handshake has to end which the kernel had begun before nobody was let in."""


@final
class Serving:
    """One run of the server. Its methods run on loop 0, unless they say otherwise."""

    def __init__(self, plan: Plan, given: socket.socket | None) -> None:
        self._plan = plan
        self._given = given
        self._config = config_of(plan)
        self._target = self._config.app = imported(plan.app)
        self._health = Health(plan.paths)
        self._limit = ConcurrencyLimit(self._config.limit_concurrency)
        text = plan.http.access_log_format
        self._access_format = None if text is None else AccessFormat(text)
        self._is_native = plan.http.is_native
        if self._is_native:
            native_http.classes()
        self._loop_servers: dict[EventLoop, LoopServer] = {}
        self._peers: dict[Any, Any] = {}
        self._signal: signal.Signals | None = None
        self._signalled_at = 0.0
        self._signalled = asyncio.Event()
        self._forced = asyncio.Event()
        self._path_is: tuple[int, int, int] | None = None
        self._context: ssl.SSLContext | None = None
        self._certificates: Certificates | None = None
        self.deadline = time.monotonic()
        """When the end should be over, on the clock ``time.monotonic``."""
        self.failure: Exception | None = None
        """Why it did not begin to serve."""

    async def run(self) -> None:
        """Start, serve, and end in good order."""
        logger.addFilter(only_news)
        try:
            self._uvicorn = UvicornServer(
                self._config, self._on_signal, self._signalled.set, self._force
            )
            with self._uvicorn.taking_signals():
                server = await self._start()
                if server is not None:
                    await _either(self._enough(), self._signalled)
                self._begin_end()
                if server is not None:
                    await self._end(server)
                else:
                    self._uvicorn.end(self._signal)
                await self._on_each(_stop)
                logger.info("Finished server process [%d]", os.getpid())
        finally:
            logger.removeFilter(only_news)

    # -- the beginning -------------------------------------------------------------------------

    async def _start(self) -> Server | None:
        """Start the applications and listen; ``None``: it failed, or a signal came."""
        logger.info("Started server process [%d]", os.getpid())
        for name in VARIABLES:
            if value := os.environ.get(name):
                logger.warning(
                    "%s=%s is ignored: one process uses all cores; set the number of loops with "
                    "--loops or UVICORN_LOOPS",
                    name,
                    value,
                )
        starting = asyncio.ensure_future(self._start_applications())
        try:
            await _either(asyncio.wait([starting]), self._signalled)
            if not starting.done():
                starting.cancel()
                # A loop that is stuck in its start does not see that it is cancelled.
                await _either(asyncio.wait([starting]), self._forced)
            if not starting.done() or starting.cancelled():
                return None
            starting.result()
            server = await self._listen()
        except Exception as error:
            self.failure = error
            return None
        finally:
            starting.cancel()
        self._health.ready = self._uvicorn.started = True
        sockets.notify("READY=1")
        return server

    async def _start_applications(self) -> None:
        """Start the application on loop 0, then on all others at once."""
        first, *others = current_pool().loops
        await call(first, self._start_here, False)
        ends = await asyncio.gather(
            *(call(loop, self._start_here, True) for loop in others), return_exceptions=True
        )
        for end in ends:
            if end is not None:
                raise end

    async def _start_here(self, again: bool) -> None:
        """Start the application on the loop that runs here; ``again``: not as the first one."""
        config = self._config
        if self._plan.factory:
            config = copy.copy(config)
            config.app = checked(self._target(), "what the factory returned")
        if not config.loaded:
            load(config)
            if not again:
                self._set_up_tls(config)
        http = self._make_http(config)
        loop_server = LoopServer(config, http, quiet=again)
        self._limit.count(loop_server.loop, http)
        started = await loop_server.start()
        first = next(iter(self._loop_servers.values()), loop_server)
        if started and loop_server.error is not None and first.error is None:
            # uvicorn takes it for an application without a lifespan, which it is not.
            logger.error("Exception in 'lifespan' protocol", exc_info=loop_server.error)
            started = False
        if not started:
            raise StartupError(f"the application did not start on {loop_server.name}")
        self._loop_servers[loop_server.loop] = loop_server

    def _set_up_tls(self, config: uvicorn.Config) -> None:
        """Make the context, and decide by it whether the server in Rust can serve."""
        plan = self._plan
        if renews(config, plan.ssl):
            self._certificates = Certificates(config)
            self._context = self._certificates.context
        else:
            self._context = plan.ssl or config.ssl
        if plan.http.is_native and (reason := native_http.why_not(self._context)) is not None:
            self._is_native = False
            for name in ("h1_max_header_size", "request_timeout"):
                if getattr(plan.http, name) is not None:
                    raise OptionError(f"`{name}` requires `http` native: {reason}")
            level = logging.WARNING if plan.http.is_asked_for else logging.INFO
            logger.log(level, "Serving with uvicorn's protocols, not natively: %s", reason)

    def _make_http(self, config: uvicorn.Config) -> HTTPServer:
        """Return the HTTP server of one loop, with the application behind what is ours."""
        access_format = self._access_format

        def ours(app: App) -> App:
            return logged(self._health.around(self._limit.around(app)), access_format)

        app = config.loaded_app
        if self._is_native:
            # uvicorn's outermost layer costs each request a frame, for headers that few have.
            is_proxied = config.proxy_headers and isinstance(app, ProxyHeadersMiddleware)
            plain = ours(app.app if is_proxied else app)
            proxied = ours(app) if is_proxied else plain
            return NativeHTTP(
                config,
                plain,
                proxied,
                self._plan.http,
                self._peers,
                self._health.native_readiness(),
            )
        return UvicornHTTP(config, usable_on_every_loop(ours(app)), access_log=not access_format)

    async def _listen(self) -> Server:
        plan, loop_servers = self._plan, self._loop_servers
        config = next(iter(loop_servers.values())).config
        context = self._context

        def make_protocol() -> asyncio.Protocol:
            loop: Any = asyncio.get_running_loop()
            return loop_servers[loop].make_protocol()

        listen = functools.partial(
            create_server, make_protocol, ssl=context, backlog=config.backlog
        )
        place = plan.place
        if self._is_native and plan.paths.readiness is not None:
            responder.set(next(iter(loop_servers.values())).http.answer_at)
        if self._given is not None:
            server = await listen(sock=self._given)
        elif place.uds is not None or place.fd is not None:
            server = await listen(sock=sockets.bound(place, config.backlog))
        else:
            if not place.reuse_port:
                await sockets.check_that_nobody_listens(place)
            server = await listen(place.host, place.port, reuse_port=True)
        if self._given is None:  # otherwise the path is the giver's as well
            self._path_is = sockets.identity(place)
        where = sockets.address(place, server, "http" if context is None else "https")
        loops = "1 loop" if len(loop_servers) == 1 else f"{len(loop_servers)} loops"
        logger.info("Uvicorn running on %s on %s (Press CTRL+C to quit)", where, loops)
        return server

    async def _enough(self) -> None:
        """Wait until the limit of requests is reached, if there is one; otherwise for ever."""
        config = self._config
        limit = config.limit_max_requests
        if limit is None:
            await asyncio.Event().wait()
            return
        limit += random.randint(0, config.limit_max_requests_jitter)
        while sum(loop_server.requests for loop_server in self._loop_servers.values()) < limit:  # noqa: ASYNC110
            await asyncio.sleep(TICK)
        logger.info("Maximum request limit of %d exceeded. Terminating process.", limit)

    # -- the end -------------------------------------------------------------------------------

    def _begin_end(self) -> None:
        self.deadline = time.monotonic() + self._plan.timeout_graceful_shutdown
        self._health.ready = False
        sockets.notify("STOPPING=1")
        logger.info("Shutting down")

    async def _end(self, server: Server) -> None:
        """Take no more connections, and end those that are there."""
        plan = self._plan
        if plan.shutdown_delay:
            await _either(asyncio.sleep(plan.shutdown_delay), self._forced)
        # Not earlier: until then everything continues.
        self._uvicorn.end(self._signal)
        await self._close(server)
        drain_timeout = plan.timeout_drain
        if drain_timeout is None:
            interactive = self._signal is signal.SIGINT
            drain_timeout = 0.0 if interactive else self._config.timeout_keep_alive
        listening = {member.loop: listener for member, listener in server._servers}

        def drain(loop_server: LoopServer) -> Coroutine[Any, Any, list[str]]:
            return loop_server.drain(listening.get(loop_server.loop), drain_timeout, self.deadline)

        for left in await self._on_each(drain):
            for what in left or ():
                logger.error("Cancelled, timeout graceful shutdown exceeded: %s", what)
        server.abort_clients()

    async def _close(self, server: Server) -> None:
        """Stop listening; take in what the kernel had accepted until then.

        A listener that is closed resets the connections that wait in its queue. So a second
        descriptor holds each open until nobody else accepts from it, and its queue has been emptied
        while nothing new can come in.
        One that was given stays open elsewhere, and with it the queue for whoever comes next.
        """
        given = self._given is not None or self._plan.place.fd is not None
        kept = [] if given else sockets.kept_open(server.sockets)
        server.close()
        # A loop that is stuck closes its own later; it must not hold up the others.
        asked = {asyncio.ensure_future(call(loop, _nothing)): loop for loop in self._loop_servers}
        done, _ = await asyncio.wait(asked, timeout=GRACE)
        closed = {asked[task] for task in done if error_of(task) is None}
        for loop in self._loop_servers.keys() - closed:
            server._retire(loop)
        sockets.remove_path(self._plan.place, self._path_is)
        loop_servers = [self._loop_servers[loop] for loop in closed or self._loop_servers]
        context = self._context
        turn = itertools.cycle(loop_servers)

        def take_in() -> None:
            for conn in (conn for listener in kept for conn in sockets.emptied(listener)):
                loop_server = next(turn)
                loop_server.loop.call_soon_threadsafe(loop_server.take, conn, context)

        take_in()  # what came before stands in nobody's way
        for listener in kept:
            sockets.let_nobody_in(listener)
        if kept:
            await asyncio.sleep(HANDSHAKE)
        take_in()
        for listener in kept:
            sockets.close(listener)

    async def _on_each[T](
        self, method: Callable[[LoopServer], Coroutine[Any, Any, T]]
    ) -> list[T | None]:
        """Await ``method`` on each loop; log the loops that do not respond in time."""
        asked = {
            asyncio.ensure_future(call(loop_server.loop, method, loop_server)): loop_server
            for loop_server in self._loop_servers.values()
        }
        if not asked:
            return []
        remaining = max(0.0, self.deadline - time.monotonic()) + 2 * GRACE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(remaining):
                await _either(asyncio.wait(asked), self._forced)
        if not all(task.done() for task in asked):
            for loop_server in self._loop_servers.values():
                loop_server.loop.call_soon_threadsafe(loop_server.force)
            await asyncio.wait(asked, timeout=2 * GRACE)
        results: list[T | None] = []
        for task, loop_server in asked.items():
            result = None
            if not task.done():
                logger.error("%s did not shut down in time", loop_server.name)
                task.cancel()
                # It would not respond to the next request either.
                del self._loop_servers[loop_server.loop]
            elif (error := error_of(task)) is not None:
                logger.error("%s failed to shut down", loop_server.name, exc_info=error)
            else:
                result = task.result()
            results.append(result)
        return results

    # -- signals -------------------------------------------------------------------------------

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and renews(self._config, self._plan.ssl):
            if self._certificates is not None:  # otherwise it will read what there is
                self._certificates.renew()
            return
        now = time.monotonic()
        if self._signal is None:
            self._signal = number
            self._signalled_at = now
            self._signalled.set()
        elif now - self._signalled_at >= ECHO and not self._forced.is_set():
            logger.info("Second signal: cancelling requests in progress")
            self._force()

    def _force(self) -> None:
        self.deadline = min(self.deadline, time.monotonic())
        self._signalled.set()
        self._forced.set()


async def _stop(loop_server: LoopServer) -> None:
    await loop_server.stop()


async def _nothing() -> None:
    """Nothing: that it has run says that what was posted before has, too."""


async def _either(what: Awaitable[Any], event: asyncio.Event) -> None:
    """Wait until ``what`` is done or the event set; then cancel what is not done."""
    tasks = [asyncio.ensure_future(what), asyncio.ensure_future(event.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.wait(tasks)
