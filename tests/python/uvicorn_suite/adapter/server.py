"""`http="native"` with the face of uvicorn's server, on the loop that it is run on."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from loop_pool._serve.health import Paths
from loop_pool._serve.native_http import NativeHTTP
from loop_pool._serve.plan import HTTPOptions, Plan
from loop_pool._serve.run import Serving
from loop_pool._serve.sockets import Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


def _support() -> Any:
    """`tests/python/support.py`, whose package has the name that uvicorn's tests have, too."""
    path = Path(__file__).resolve().parents[2] / "support.py"
    spec = importlib.util.spec_from_file_location("loop_pool_tests_support", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


support = _support()
HANG: float = support.HANG

OURS = {"app", "host", "port", "uds", "fd", "http", "loop", "workers"}
"""Options of `uvicorn.Config` that are none of `loop_pool.serve`, or not passed on as they are."""


class _Made:
    """How many servers were made."""

    count = 0


made = _Made()


def record_configurations() -> None:
    """Let each `uvicorn.Config` remember what it was made of."""
    init = uvicorn.Config.__init__

    @functools.wraps(init)
    def remembering(self: Any, app: Any, *args: Any, **options: Any) -> None:
        assert not args, "given by position"
        init(self, app, **options)
        self.given = {"app": app, **options}

    uvicorn.Config.__init__ = remembering  # type: ignore[method-assign, assignment]


def plan_of(config: Any, **more: Any) -> Plan:
    """What `loop_pool.serve` makes of the same options."""
    given = config.given
    options = {name: value for name, value in given.items() if name not in OURS}
    # The test's own configuration has set the logging up, and `caplog` after it.
    options["log_config"] = None
    place = Place(
        given.get("host", "127.0.0.1"),
        given.get("port", 8000),
        given.get("uds"),
        given.get("fd"),
        False,
    )
    http = HTTPOptions("native")
    return Plan(given["app"], False, place, None, Paths(), http, 0.0, 0.0, 10.0, options | more)


class NativeServing:
    """A run of `loop_pool.serve` that shows what it has made."""

    def __init__(self, plan: Plan, given: socket.socket | None = None) -> None:
        self.run_of = Serving(plan, given)
        self.http: Any = None
        self._make_http = self.run_of._make_http
        self.run_of._make_http = self._made_http  # type: ignore[method-assign]
        self.around: Callable[[Any], Any] = lambda app: app
        """Goes around the application, before all that is the server's."""
        self.state: dict[str, Any] | None = None
        """In place of what a lifespan has left."""
        made.count += 1

    @property
    def is_ready(self) -> bool:
        """Whether it serves, and has not begun to end."""
        return self.run_of._health.ready

    def stop(self) -> None:
        """Begin its end."""
        self.run_of._uvicorn.should_exit = True

    def _made_http(self, config: Any) -> Any:
        config.loaded_app = self.around(config.loaded_app)
        self.http = http = self._make_http(config)
        assert isinstance(http, NativeHTTP), "not native"
        if self.state is not None:
            state = self.state
            start = http.start
            http.start = lambda _: start(state)  # type: ignore[method-assign]
        return http


class NativeServer:
    """As `uvicorn.Server`, on the running loop, which has to be one of a pool."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self._serving: NativeServing | None = None
        self._running: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until the end, whoever begins that."""
        (given,) = sockets or (None,)
        self._running = asyncio.current_task()
        self._serving = NativeServing(plan_of(self.config), given)
        await self._serving.run_of.run()
        if self._serving.run_of.failure is not None:
            raise self._serving.run_of.failure

    @property
    def started(self) -> bool:
        """Whether it serves, or has served."""
        if self._running is not None and self._running.done():
            self._running.result()  # which says why it does not serve
        return self._serving is not None and (
            self._serving.is_ready or self._serving.run_of._signalled.is_set()
        )

    @property
    def should_exit(self) -> bool:
        """Whether it ends."""
        return self._serving is not None and self._serving.run_of._uvicorn.should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        assert self._serving is not None
        self._serving.run_of._uvicorn.should_exit = value

    async def shutdown(self) -> None:
        """End, and wait for the end."""
        assert self._serving is not None
        assert self._running is not None
        self._serving.stop()
        await asyncio.wait([self._running], timeout=HANG)
