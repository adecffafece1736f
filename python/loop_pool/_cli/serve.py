"""``loop-pool serve module:app``: uvicorn's command line plus the options of the pool.

uvicorn's options are read from the installed uvicorn, so each keeps its name, meaning and
environment variable (``UVICORN_PORT``).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from .._serve.plan import NATIVE, OTHERWISE, OptionError
from .._serve.report import fail, report
from .._serve.serve import GRACEFUL, serve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import click

    from .subcommand import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add ``serve`` to the command."""
    parser = subparsers.add_parser(
        "serve",
        help="serve an ASGI application on every loop of one process",
        # click parses the rest, because uvicorn's options are click options.
        add_help=False,
        prefix_chars="\0",
    )
    parser.add_argument("arguments", nargs="*")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Returns:
        The exit code: 0 after an end in good order; 2 for wrong options; 3 if it could not begin.
    """
    try:
        import click

        command = _command()
    except ModuleNotFoundError as error:
        if error.name not in {"click", "uvicorn"}:
            raise
        return fail(f"serve needs uvicorn: pip install 'loop_pool[asgi]' ({error})")
    try:
        code: int | None = command.main(
            args.arguments, prog_name="loop-pool serve", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None
    return code or 0


def _command() -> click.Command:
    import click
    from uvicorn.main import main as uvicorns

    theirs = [
        _with_native(parameter) if parameter.name == "http" else parameter
        for parameter in uvicorns.params
        if parameter.name not in {*OTHERWISE, "timeout_graceful_shutdown"}
        # They would print uvicorn's.
        and "--version" not in parameter.opts
    ]
    refused = [
        click.Option(
            parameter.opts,
            hidden=True,
            expose_value=False,
            # Its environment variable is reported in the log instead.
            allow_from_autoenv=False,
            callback=_refused,
        )
        for parameter in uvicorns.params
        if parameter.name in OTHERWISE
    ]
    seconds = click.FloatRange(min=0)
    ours = [
        click.Option(
            ["--loops"],
            type=click.IntRange(min=1),
            help="Number of loops. [default: one per core that the process may use]",
        ),
        click.Option(
            ["--reuse-port"],
            is_flag=True,
            help="Allow other processes to listen on the port, for restarts without downtime.",
        ),
        click.Option(
            ["--readiness-path"],
            metavar="PATH",
            help="Path of the readiness check: 200, or 503 once shutdown has begun.",
        ),
        click.Option(
            ["--liveness-path"],
            metavar="PATH",
            help="Path of the liveness check: 200, or 503 if a loop does not respond.",
        ),
        click.Option(
            ["--liveness-timeout"],
            type=seconds,
            default=5.0,
            show_default=True,
            help="Seconds in which a loop has to respond to the liveness check.",
        ),
        click.Option(
            ["--metrics-path"],
            metavar="PATH",
            help="Path of the pool's metrics for Prometheus.",
        ),
        click.Option(
            ["--h1-max-header-size"],
            type=int,
            metavar="BYTES",
            help="Size that the head of a request may have; for --http native and h11.",
        ),
        click.Option(
            ["--request-timeout"],
            type=float,
            help="Seconds that a client may take for the head of a request, and for each further "
            "part of its body; for --http native. [default: any time]",
        ),
        click.Option(
            ["--access-log-format"],
            metavar="FORMAT",
            help="Lines of the access log, in gunicorn's atoms: '%(h)s %(r)s %(s)s %(D)s'.",
        ),
        click.Option(
            ["--shutdown-delay"],
            type=seconds,
            default=0.0,
            show_default=True,
            help="Seconds after the signal in which connections are still accepted, "
            "so that load balancers notice that the server is not ready.",
        ),
        click.Option(
            ["--timeout-drain"],
            type=seconds,
            help="Seconds in which an idle connection may send one more request during "
            "shutdown. [default: --timeout-keep-alive; after Ctrl-C: 0]",
        ),
        click.Option(
            ["--timeout-graceful-shutdown"],
            type=seconds,
            help="Seconds after the signal until unfinished requests are logged and cancelled. "
            f"[default: {GRACEFUL:g} plus --shutdown-delay]",
        ),
        click.Option(
            ["--steal/--no-steal"],
            default=True,
            help="Let idle loops do socket work of busy ones.",
        ),
        click.Option(
            ["--stuck-after"],
            type=click.FloatRange(min=0, min_open=True),
            help="Log a loop that stays inside one callback for this many seconds.",
        ),
        click.Option(
            ["--inspect"],
            is_flag=True,
            default=None,
            help="Allow loop-pool ps and top to inspect the pool.",
        ),
    ]
    return click.Command(
        "serve",
        params=[*theirs, *ours, *refused],
        callback=_serve,
        context_settings={"auto_envvar_prefix": "UVICORN"},
        help="Serve APP, an ASGI application, on every loop of one process: 'module:attribute'. "
        "Takes uvicorn's options, followed by those of the pool.",
    )


def _with_native(option: click.Parameter) -> click.Parameter:
    """Return the option ``--http`` with the value that is none of uvicorn's."""
    option = copy.copy(option)
    assert option.metavar is not None
    option.metavar = f"[{NATIVE}|{option.metavar.strip('[]')}]"
    return option


def _refused(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Say why an option of uvicorn's is none here."""
    import click

    if value is not None:
        reason = OTHERWISE[str(option.name)]
        raise click.UsageError(f"{option.opts[0]} is not supported: {reason} (--loops N)")


def _check_place(context: click.Context) -> None:
    """Refuse a host or port beside another place to listen, if both stand in the command."""
    import click

    def stands(name: str) -> bool:
        return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE

    for name in ("uds", "fd"):
        for other in ("host", "port"):
            if stands(name) and stands(other):
                raise OptionError(f"`{other}` cannot be combined with `{name}`: give one of them")


def _serve(app: str, headers: Sequence[str], log_config: str | None, **options: Any) -> int:
    """Do what the options say; what uvicorn's command makes of its own is done here too."""
    import click

    for name, value in list(options.items()):
        if isinstance(value, tuple):  # an option that may be given more than once
            options[name] = list(value) or None
    if log_config is not None:
        options["log_config"] = log_config
    try:
        _check_place(click.get_current_context())
        options["headers"] = [_header(line) for line in headers]
        serve(app, **options)
    except Exception as error:
        return report(error)
    return 0


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise OptionError(f"`header` must be Name:Value, got {line!r}")
    return name, value
