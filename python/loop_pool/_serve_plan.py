"""What ``loop_pool.serve`` was asked for, and what that is in uvicorn's words."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl

    import uvicorn

    from ._place import Place

OTHERWISE = {
    "callback_notify": "it is for processes that manage workers",
    "timeout_notify": "it is for processes that manage workers",
    "timeout_worker_healthcheck": "there are no workers",
    "loop": "the loops are the pool's",
    "workers": "it is loops",
}
"""The options of uvicorn that have no meaning here, and why."""


class StartupError(RuntimeError):
    """The application said, on one of the loops, that it cannot start.

    Raised by ``serve`` in the thread that called it.
    """


class Plan(NamedTuple):
    """What :func:`serve` was asked for."""

    app: Any
    factory: bool
    place: Place
    ssl: ssl.SSLContext | None
    health: tuple[str | None, str | None, float]
    """The paths of readiness and liveness, and the seconds for an answer."""
    shutdown_delay: float
    timeout_drain: float | None
    timeout_graceful_shutdown: float
    options: dict[str, Any]
    """For ``uvicorn.Config``."""


def imported(app: Any) -> Any:
    """Return what ``"module:attribute"`` names, or what was given instead."""
    if not isinstance(app, str):
        return checked(app, "app")
    from uvicorn.importer import ImportFromStringError, import_from_string

    try:
        return checked(import_from_string(app), app)
    except ImportFromStringError as error:
        raise ImportError(f"cannot import {app!r}: {error}") from error


def checked(app: Any, name: str) -> Any:
    if not callable(app):
        raise TypeError(f"{name} is no ASGI application: {app!r}")
    return app


def config_of(plan: Plan, app: Any, *, reload: bool = False) -> uvicorn.Config:
    """Return uvicorn's configuration for what was asked.

    Raises:
        TypeError: an option is unknown, or has no meaning here.
        OSError: a file for TLS cannot be read.
    """
    import uvicorn

    from ._serve_log import log_config

    known = inspect.signature(uvicorn.Config).parameters.keys() - OTHERWISE.keys()
    for name in plan.options:
        if name not in known:
            hint = OTHERWISE.get(name, "uvicorn.Config has no such option")
            raise TypeError(f"serve() takes no {name!r}: {hint}")
    options = {"log_config": log_config(), **plan.options}
    place = plan.place
    if options.get("ssl_context_factory") is None:
        for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
            if path := options.get(name):
                open(path, "rb").close()  # ssl would not say which file it cannot read
    return uvicorn.Config(
        app,
        host=place.host,
        port=place.port,
        uds=place.uds,
        fd=place.fd,
        # Otherwise it would be read from WEB_CONCURRENCY.
        workers=1,
        reload=reload,
        **options,
    )
