"""``loop_pool.serve``: one ASGI application on every loop of one process, with uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from .._pool.grace import GRACE
from .._pool.runner import Runner
from . import sockets
from .access_log import AccessFormat
from .health import Paths
from .plan import HTTPOptions, OptionError, Plan, check, choose_http, config_of
from .sockets import Place

if TYPE_CHECKING:
    import socket
    import ssl as _ssl
    from collections.abc import Sequence

GRACEFUL = 25.0
"""Seconds that the end may take. Kubernetes kills after 30, unless it is told another time."""


def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    uds: str | os.PathLike[str] | None = None,
    fd: int | None = None,
    loops: int | None = None,
    factory: bool = False,
    ssl: _ssl.SSLContext | None = None,
    reuse_port: bool = False,
    readiness_path: str | None = None,
    liveness_path: str | None = None,
    liveness_timeout: float = 5.0,
    metrics_path: str | None = None,
    http: Any = "auto",
    h1_max_header_size: int | None = None,
    request_timeout: float | None = None,
    access_log_format: str | None = None,
    shutdown_delay: float = 0.0,
    timeout_drain: float | None = None,
    timeout_graceful_shutdown: float | None = None,
    app_dir: str | os.PathLike[str] | None = None,
    reload: bool = False,
    debug: bool | None = None,
    steal: bool = True,
    stuck_after: float | None = None,
    inspect: bool | None = None,
    **options: Any,
) -> None:
    """Serve an ASGI application on every loop of a new pool, until a signal arrives.

    Like ``uvicorn.run``, but it uses all cores in one process. Requires the extra ``asgi``.
    ``SIGTERM``, ``SIGHUP`` and ``SIGINT`` shut it down after requests in progress are answered. A
    second signal ends it without waiting. With ``ssl_certfile``, ``SIGHUP`` reads certificate and
    key again instead.

    The application's lifespan runs once on each loop, on loop 0 first. ``request.state`` belongs to
    the loop, ``app.state`` is shared. With ``factory=True`` each loop has its own application.

    Args:
        app: an ASGI application, or an import string: ``"module:attribute"``.
        host: the address to listen on.
        port: the port; 0 selects a free one, which is logged.
        uds: listen on a unix socket at this path instead.
        fd: listen on the socket of this descriptor instead, such as one from systemd. It is not
            closed.
        loops: the number of loops; ``None``: one per core that this process may use.
        factory: ``app`` is a function that returns an application; it is called on each loop.
        ssl: the context for TLS; or pass uvicorn's ``ssl_keyfile``, ``ssl_certfile`` and so on.
        reuse_port: allow other processes to listen on the port at the same time, for restarts
            without downtime.
        readiness_path: answered with 200, and with 503 after the shutdown signal; for load
            balancers.
        liveness_path: answered with 200 if every loop responds within ``liveness_timeout``,
            otherwise with 503 and the names of those that do not.
        liveness_timeout: seconds.
        metrics_path: answered with the pool's metrics for Prometheus, as
            :mod:`loop_pool.metrics.prometheus` has them. Requires the extra ``metrics``.
        http: what speaks HTTP: ``"native"``, the server in Rust; or as in uvicorn ``"httptools"``,
            ``"h11"``, ``"zttp"``, or a class. ``"auto"`` is ``"native"``, unless an option needs
            uvicorn's protocols: ``http2``, ``reset_contextvars``, a ``ws`` of uvicorn's, or TLS
            that rustls does not have. They are httptools, or h11 if that is not installed.
        h1_max_header_size: bytes that the head of a request may have, otherwise it is answered
            with 431 by ``"native"`` (which takes 64 KiB by default) and with 400 by ``"h11"``.
        request_timeout: seconds that a client may take for the head of a request, and for each
            further part of its body, otherwise it is answered with 408. ``None``: any time. For
            ``"native"`` only.
        access_log_format: the lines of the access log, in gunicorn's atoms: ``"%(h)s %(s)s"``.
        shutdown_delay: seconds after the signal in which connections are still accepted, so that a
            load balancer notices that the server is not ready.
        timeout_drain: seconds in which an idle connection may send one more request, once the
            listeners are closed. ``None``: uvicorn's ``timeout_keep_alive``, which would close it
            anyway; 0 after ``SIGINT``. A new connection has at least a quarter of a second for its
            first request.
        timeout_graceful_shutdown: seconds after the signal until unfinished requests are logged and
            cancelled; ``None``: 25 plus ``shutdown_delay``.
        app_dir: a directory to import ``app`` from.
        reload: restart when a file changes; for development. As in uvicorn, with its
            ``reload_dirs`` and so on.
        debug: as for :func:`run`.
        steal: likewise.
        stuck_after: likewise.
        inspect: likewise.
        options: any other option of ``uvicorn.Config``: ``log_level``, ``access_log``,
            ``root_path``, ``proxy_headers``, ``ws``, ``lifespan``, ... Its limits apply to
            the whole server.

    Raises:
        ModuleNotFoundError: uvicorn is not installed.
        ImportError: ``app`` cannot be imported.
        TypeError: ``app`` is not an application, or an option does not exist.
        ValueError: options conflict, a time is negative, the port is out of range, or a format is
            not understood.
        OSError: the address cannot be bound, or a file cannot be read.
        StartupError: the application's startup failed; loops that had started are shut down.
        RuntimeError: called in a running loop.

    Threads: called in a thread without a running loop, which becomes loop 0's. Outside the main
    thread signals do not end it.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("loop_pool.serve() cannot be called from a running event loop")
    if timeout_graceful_shutdown is None:
        timeout_graceful_shutdown = shutdown_delay + GRACEFUL
    plan = Plan(
        app,
        factory,
        Place(host, port, None if uds is None else os.fsdecode(uds), fd, reuse_port),
        ssl,
        Paths(readiness_path, liveness_path, liveness_timeout, metrics_path),
        HTTPOptions(
            *choose_http(http, options), h1_max_header_size, request_timeout, access_log_format
        ),
        shutdown_delay,
        timeout_drain,
        timeout_graceful_shutdown,
        options,
    )
    check(plan)
    if access_log_format is not None:
        AccessFormat(access_log_format)
    if reload:
        _check_reload(plan)
    if app_dir is not None:
        sys.path.insert(0, os.fsdecode(app_dir))  # where a path object would be passed over
    pool_options = {
        "loops": loops,
        "debug": debug,
        "steal": steal,
        "stuck_after": stuck_after,
        "inspect": inspect,
    }
    if reload:
        _reload(plan, pool_options)
    else:
        _serve(plan, pool_options)


def _check_reload(plan: Plan) -> None:
    if not isinstance(plan.app, str):
        raise OptionError("`reload` needs `app` as an import string, 'module:attribute'")
    if plan.ssl is not None:
        raise OptionError(
            "`reload` cannot pass an `ssl` context on: use ssl_keyfile and ssl_certfile"
        )


def _reload(plan: Plan, pool_options: dict[str, Any]) -> None:
    """Serve in a process of its own, which is replaced whenever a file changes."""
    from uvicorn.supervisors import ChangeReload

    config = config_of(plan, reload=True)
    options = {name: value for name, value in plan.options.items() if "reload" not in name}
    plan = plan._replace(options=options, timeout_drain=0.0)
    # The socket stays open here, so that no connection is refused while the process restarts.
    with sockets.bound(plan.place, config.backlog) as sock:
        ours = sockets.identity(plan.place)
        reloader = ChangeReload(
            config, target=functools.partial(_serve_anew, plan, pool_options), sockets=[sock]
        )
        # uvicorn's does not know this signal, which would leave the other process behind.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, reloader.signal_handler)
        reloader.run()
    sockets.remove_path(plan.place, ours)


def _serve_anew(plan: Plan, pool_options: dict[str, Any], sockets: Sequence[socket.socket]) -> None:
    """Serve in the process that is replaced when a file changes, and say why it cannot."""
    from .report import report

    try:
        _serve(plan, pool_options, sockets)
    except Exception as error:
        sys.exit(report(error))


def _serve(plan: Plan, pool_options: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    """Serve until a signal comes; ``sockets``: one that is bound, if it is to listen on that."""
    from .run import Serving

    serving = Serving(plan, sockets[0] if sockets else None)
    with Runner(**pool_options) as runner:
        with contextlib.suppress(KeyboardInterrupt):  # before the signals are ours
            runner.run(serving.run())
        # The shutdown of the pool gets the rest of the deadline.
        runner._shutdown_timeout = max(GRACE, serving.deadline - time.monotonic())
    if serving.failure is not None:
        raise serving.failure
