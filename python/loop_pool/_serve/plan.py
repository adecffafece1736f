"""The options of ``loop_pool.serve``, and their translation to uvicorn's."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core
from ..metrics import missing

if TYPE_CHECKING:
    import uvicorn

    from .health import Paths
    from .sockets import Place

OTHERWISE = {
    "callback_notify": "it applies to processes that manage workers",
    "timeout_notify": "it applies to processes that manage workers",
    "timeout_worker_healthcheck": "there are no workers",
    "loop": "the pool creates its own loops; set their number with loops",
    "workers": "one process uses all cores; set the number of loops with loops",
}
"""The options of uvicorn that have no meaning here, and why."""

VARIABLES = ("UVICORN_WORKERS", "WEB_CONCURRENCY", "UVICORN_LOOP")
"""Environment variables that set such an option of uvicorn's."""

NATIVE = "native"
"""The server in Rust, among the values of ``http``."""

UVICORN_ONLY = ("http2", "reset_contextvars")
"""Options that the server in Rust does not have."""

MOST_PORTS = 65535

SMALLEST_HEAD = 1024
"""Bytes that a request's head may have at least."""

LONGEST_BACKLOG = 2**31 - 1
"""What the kernel's interface takes."""

CERTIFICATE = ("ssl_certfile", "ssl_context_factory")
WITH_CERTIFICATE = ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs", "ssl_ciphers")


class StartupError(RuntimeError):
    """The application said, on one of the loops, that it cannot start.

    Raised by ``serve`` in the thread that called it.
    """


class OptionError(ValueError):
    """An option cannot be had, or contradicts another one.

    Args:
        text: what is wrong, with the options in backticks, as ``serve`` calls them.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_OPTION.sub(r"\1", text))
        self._text = text

    def on_command_line(self) -> str:
        """Say it with the names that the options have there."""
        return _OPTION.sub(lambda found: f"--{found[1].replace('_', '-')}", self._text)


_OPTION = re.compile(r"`(\w+)`")


class HTTPOptions(NamedTuple):
    """What speaks HTTP, and the options that uvicorn's configuration does not have."""

    http: Any = NATIVE
    """``NATIVE``, or what uvicorn takes."""
    is_asked_for: bool = True
    """Whether the program says so: otherwise another one may serve in silence."""
    h1_max_header_size: int | None = None
    """Bytes."""
    request_timeout: float | None = None
    """Seconds."""
    access_log_format: str | None = None

    @property
    def is_native(self) -> bool:
        """Whether the server in Rust is asked for."""
        is_native: bool = self.http == NATIVE
        return is_native


def choose_http(http: Any, options: dict[str, Any]) -> tuple[Any, bool]:
    """Return what speaks HTTP, and whether the program has asked for that.

    ``"auto"`` is the server in Rust, unless this build has none, or an option needs uvicorn's
    protocols.
    """
    if http != "auto":
        return http, True
    needs_uvicorn = any(options.get(name) for name in UVICORN_ONLY)
    speaks_websocket = options.get("ws", "auto") in ("auto", "none")
    can = hasattr(_core, "HTTPServer") and speaks_websocket and not needs_uvicorn
    return (NATIVE if can else http), False


class Plan(NamedTuple):
    """What :func:`serve` was asked for."""

    app: Any
    factory: bool
    place: Place
    ssl: ssl.SSLContext | None
    paths: Paths
    http: HTTPOptions
    shutdown_delay: float
    timeout_drain: float | None
    timeout_graceful_shutdown: float
    options: dict[str, Any]
    """For ``uvicorn.Config``."""


def check(plan: Plan) -> None:
    """Refuse what contradicts itself.

    Raises:
        OptionError: for that reason.
    """
    place, options = plan.place, plan.options
    if place.uds is not None and place.fd is not None:
        raise OptionError("`uds` and `fd` exclude each other: give one of them")
    if place.reuse_port and not (place.uds is None and place.fd is None):
        raise OptionError(
            "`reuse_port` applies to a port only: do not combine it with `uds` or `fd`"
        )
    if not 0 <= place.port <= MOST_PORTS:
        raise OptionError(f"`port` must be from 0 to {MOST_PORTS}, got {place.port}")
    _check_times(plan)
    _check_paths(plan.paths)
    _check_counts(options)
    _check_http(plan)
    with_certificate = [name for name in WITH_CERTIFICATE if options.get(name)]
    certificate = [name for name in CERTIFICATE if options.get(name)]
    if plan.ssl is not None:
        for name in certificate + with_certificate:
            raise OptionError(f"`ssl` configures TLS completely: do not combine it with `{name}`")
    elif with_certificate and not certificate:
        raise OptionError(f"`{with_certificate[0]}` requires `ssl_certfile`")


def _check_paths(paths: Paths) -> None:
    given = {
        "readiness_path": paths.readiness,
        "liveness_path": paths.liveness,
        "metrics_path": paths.metrics,
    }
    seen: dict[str, str] = {}
    for name, path in given.items():
        if path is None:
            continue
        if not path.startswith("/"):
            raise OptionError(f"`{name}` must begin with a slash, got {path!r}")
        if not path.isprintable() or {*"?# "} & {*path}:
            raise OptionError(
                f"`{name}` must be a plain path without `?`, `#` or spaces, got {path!r}"
            )
        if path in seen:
            raise OptionError(f"`{seen[path]}` and `{name}` must differ, both are {path!r}")
        seen[path] = name


def _check_http(plan: Plan) -> None:
    """Refuse options that the chosen kind of ``http`` would ignore."""
    http, options = plan.http, plan.options
    size = http.h1_max_header_size
    if size is not None:
        if size < SMALLEST_HEAD:
            raise OptionError(f"`h1_max_header_size` must be at least {SMALLEST_HEAD}, got {size}")
        if options.get("h11_max_incomplete_event_size") is not None:
            raise OptionError(
                "`h1_max_header_size` and `h11_max_incomplete_event_size` mean the same: give one"
            )
        if not http.is_native and http.http != "h11":
            raise OptionError(
                f"`h1_max_header_size` requires `http` native or h11, got {http.http!r}"
            )
    if http.request_timeout is not None and not http.is_native:
        raise OptionError(f"`request_timeout` requires `http` native, got {http.http!r}")
    if http.is_native:
        for name in UVICORN_ONLY:
            if options.get(name):
                raise OptionError(f"`{name}` is not supported with `http` native")


def _check_counts(options: dict[str, Any]) -> None:
    for name in ("limit_concurrency", "limit_max_requests"):
        limit = options.get(name)
        if limit is not None and limit < 1:
            raise OptionError(f"`{name}` must be at least 1, got {limit}")
    jitter = options.get("limit_max_requests_jitter")
    if jitter is not None and jitter < 0:
        raise OptionError(f"`limit_max_requests_jitter` must not be negative, got {jitter}")
    backlog = options.get("backlog")
    if backlog is not None and backlog > LONGEST_BACKLOG:
        raise OptionError(f"`backlog` must be at most {LONGEST_BACKLOG}, got {backlog}")


def _check_times(plan: Plan) -> None:
    times = {
        "liveness_timeout": plan.paths.liveness_timeout,
        "shutdown_delay": plan.shutdown_delay,
        "timeout_drain": plan.timeout_drain,
        "timeout_keep_alive": plan.options.get("timeout_keep_alive"),
        "timeout_graceful_shutdown": plan.timeout_graceful_shutdown,
    }
    for name, seconds in times.items():
        if seconds is not None and not seconds >= 0:
            raise OptionError(f"`{name}` must not be negative, got {seconds!r}")
    timeout = plan.http.request_timeout
    if timeout is not None and not timeout > 0:
        raise OptionError(f"`request_timeout` must be above 0, got {timeout!r}")
    delay, drain, whole = plan.shutdown_delay, plan.timeout_drain, plan.timeout_graceful_shutdown
    if delay > whole:
        raise OptionError(
            f"`shutdown_delay` ({delay:g} s) must not exceed `timeout_graceful_shutdown` "
            f"({whole:g} s), which includes it: the last requests would be cancelled"
        )
    if drain is not None and delay + drain > whole:
        raise OptionError(
            f"`shutdown_delay` plus `timeout_drain` ({delay:g} and {drain:g} s) must not exceed "
            f"`timeout_graceful_shutdown` ({whole:g} s), which includes both"
        )


def imported(app: Any) -> Any:
    """Return what ``"module:attribute"`` names, or what was given instead."""
    if not isinstance(app, str):
        return checked(app, "app")
    from uvicorn.importer import ImportFromStringError, import_from_string

    try:
        return checked(import_from_string(app), app)
    except ImportFromStringError as error:
        raise ImportError(f"cannot import {app!r}: {error}") from error
    except ModuleNotFoundError as error:
        # A package that the module would be in, and nothing that the application imports.
        if not error.name or not app.startswith(f"{error.name}."):
            raise
        raise ImportError(f"cannot import {app!r}: {error}") from error


def checked(app: Any, name: str) -> Any:
    if inspect.iscoroutine(app):
        app.close()  # nobody will await it, and nobody has to be warned of that
        raise TypeError(f"{name} is a coroutine: the factory must be a plain function")
    if not callable(app):
        raise TypeError(f"{name} is not an ASGI application: {app!r}")
    return app


def config_of(plan: Plan, *, reload: bool = False) -> uvicorn.Config:
    """Return uvicorn's configuration for what was asked.

    It sets up the logging and reads ``env_file``, so it is made before the application is imported.

    Raises:
        TypeError: an option is unknown, or has no meaning here.
        OptionError: an option has a value that it cannot have.
        ImportError: a package that an option needs is not there.
        OSError: a file cannot be read.
    """
    import uvicorn

    from .log import log_config

    known = inspect.signature(uvicorn.Config).parameters.keys() - OTHERWISE.keys()
    for name in plan.options:
        if name not in known:
            hint = OTHERWISE.get(name, "uvicorn.Config has no such option")
            raise TypeError(f"serve() got an unexpected option {name!r}: {hint}")
    http = plan.http
    plain_access = http.access_log_format is not None
    options: dict[str, Any] = {"log_config": log_config(plain_access=plain_access)}
    # uvicorn's own serve where the server in Rust cannot.
    options |= {**plan.options, "http": "auto" if http.is_native else http.http}
    if http.h1_max_header_size is not None:
        options["h11_max_incomplete_event_size"] = http.h1_max_header_size
    _check_names(options)
    place = plan.place
    files = ["env_file"]
    if options.get("ssl_context_factory") is None:
        files += ["ssl_certfile", "ssl_keyfile", "ssl_ca_certs"]
    for name in files:
        if path := options.get(name):
            # ssl does not say which file it cannot read. A number is not a path.
            open(os.fspath(path), "rb").close()
    if options.get("env_file") and importlib.util.find_spec("dotenv") is None:
        raise ImportError("env_file needs python-dotenv: pip install python-dotenv")
    if plan.paths.metrics is not None and importlib.util.find_spec("prometheus_client") is None:
        raise missing("prometheus-client")
    try:
        return uvicorn.Config(
            plan.app,
            host=place.host,
            port=place.port,
            uds=place.uds,
            fd=place.fd,
            # Otherwise it would be read from WEB_CONCURRENCY.
            workers=1,
            reload=reload,
            **options,
        )
    except OSError, ImportError:
        raise
    except Exception as error:
        # A logging configuration may raise anything.
        given = plan.options.get("log_config")
        if given is None:
            raise
        raise OptionError(f"`log_config` {given!r} is invalid: {error!r}") from error


def _check_names(options: dict[str, Any]) -> None:
    """Check what is chosen by name, or may be imported instead."""
    from uvicorn import config, importer

    for name, table in (
        ("lifespan", config.LIFESPAN),
        ("interface", config.INTERFACES),
        ("log_level", config.LOG_LEVELS),
    ):
        value = options.get(name)
        if isinstance(value, str) and value.lower() not in table:
            raise OptionError(f"`{name}` must be one of {', '.join(table)}, got {value!r}")
    for name, classes in (("http", config.HTTP_PROTOCOLS), ("ws", config.WS_PROTOCOLS)):
        value = options.get(name)
        if not isinstance(value, str):
            continue
        try:
            importer.import_from_string(classes.get(value, value))
        except importer.ImportFromStringError as error:
            choices = ", ".join([*classes, NATIVE] if name == "http" else classes)
            raise OptionError(
                f"`{name}` must be one of {choices}, got {value!r} ({error})"
            ) from error
        except ImportError as error:
            raise ImportError(f"{name} {value!r} is not available: {error}") from error


def load(config: uvicorn.Config) -> None:
    """Let uvicorn load all that it needs, in the loop that serves.

    Raises:
        OSError: TLS cannot use the files that are there.
    """
    try:
        config.load()
    except ssl.SSLError as error:
        files = [f"{config.ssl_certfile!r}", f"{config.ssl_keyfile!r}", f"{config.ssl_ca_certs!r}"]
        named = ", ".join(file for file in files if file != "None")
        raise OSError(f"cannot load {named} for TLS: {error}") from error
