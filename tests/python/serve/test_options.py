"""`loop-pool serve`: what its options promise, and what it says of those that cannot be."""

from __future__ import annotations

import json
import os
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

import loop_pool
from loop_pool import _cli

from ..support import run_python
from .kinds import on_each_kind
from .support import PLAIN, Client, Serve, get

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("clean_process"),
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn is not there"),
]


# Limits


@on_each_kind
@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_the_limit_of_concurrency_is_one_number_for_all_loops(tmp_path: Path, limit: int) -> None:
    """As uvicorn's: requests are served while there are fewer connections, their own included."""
    options = ["--port", "0", "--loops", "4", "--limit-concurrency", str(limit)]
    with Serve(tmp_path, *options) as server:
        held = [Client(server.port) for _ in range(limit - 1)]
        for client in held:  # one after another, on whichever loop
            client.ask()
            assert client.answer()[0] == 200
        for _ in range(4):
            assert get(server.port) == (503, "Service Unavailable")
        for _ in range(20 if held else 0):  # one that goes makes room at once, wherever it was
            held.pop().close()
            held.append(Client(server.port))
            held[-1].ask()
            assert held[-1].answer()[0] == 200
        for client in held:
            client.close()
        server.tell()
        assert server.ended() == 0


@on_each_kind
def test_health_answers_at_the_limit_of_concurrency(tmp_path: Path) -> None:
    options = ["--limit-concurrency", "1", "--readiness-path", "/re%20ady"]
    options += ["--liveness-path", "/live"]
    with Serve(tmp_path, "--port", "0", "--loops", "2", *options) as server:
        assert get(server.port)[0] == 503
        assert get(server.port, "/re%20ady") == (200, "ready\n")
        assert get(server.port, "/live") == (200, "alive\n")
        server.stop()


# What is there before the application


AT_IMPORT = """
    import logging, os
    SEEN = os.environ.get("SERVED_URL", "nothing")
    logging.getLogger("uvicorn.error").info("said at import: %s", SEEN)
    logging.getLogger("mine").info("mine: %s", SEEN)
"""


def test_logging_is_set_up_before_the_application_is_imported(tmp_path: Path) -> None:
    source = textwrap.dedent(AT_IMPORT) + textwrap.dedent(PLAIN)
    with Serve(tmp_path, "--port", "0", "--loops", "1", source=source) as server:
        assert "INFO:     said at import: nothing\n" in server.log
        assert "mine:" not in server.log
        server.stop()


def test_files_are_read_before_the_application_is_imported(tmp_path: Path) -> None:
    # What reads the file is a package that need not be there.
    (tmp_path / "dotenv.py").write_text(
        textwrap.dedent("""
            import os
            def load_dotenv(dotenv_path):
                with open(dotenv_path) as file:
                    os.environ.update(line.strip().split("=") for line in file)
        """)
    )
    (tmp_path / "env").write_text("SERVED_URL=from-the-file\nWEB_CONCURRENCY=7\n")
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "FORMAT %(name)s %(message)s"}},
        "handlers": {"all": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"level": "INFO", "handlers": ["all"]},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    options = ["--env-file", str(tmp_path / "env"), "--log-config", str(tmp_path / "log.json")]
    source = textwrap.dedent(AT_IMPORT) + textwrap.dedent(PLAIN)
    path = {"PYTHONPATH": str(tmp_path)}
    with Serve(
        tmp_path, "--port", "0", "--loops", "1", *options, source=source, environment=path
    ) as server:
        assert "FORMAT mine mine: from-the-file\n" in server.log
        assert "FORMAT uvicorn.error said at import: from-the-file\n" in server.log
        assert "WEB_CONCURRENCY=7 is ignored" in server.log
        server.stop()


# What cannot be


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Gives options to the command, which it refuses at once; returns what it says of them."""
    assert _cli.main(["serve", "no_such_module:app", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return " ".join(said.err.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            "--shutdown-delay 4 --timeout-graceful-shutdown 2",
            "--shutdown-delay (4 s) must not exceed",
        ),
        (
            "--timeout-drain 30",
            "--shutdown-delay plus --timeout-drain (0 and 30 s) must not exceed",
        ),
        ("--timeout-drain 3 --shutdown-delay 3 --timeout-graceful-shutdown 5", "(5 s)"),
        ("--readiness-path ready", "--readiness-path must begin with a slash, got 'ready'"),
        ("--liveness-path live", "--liveness-path must begin with a slash, got 'live'"),
        ("--liveness-path /live?now", "--liveness-path must be a plain path"),
        ("--liveness-path /x --readiness-path /x", "must differ, both are '/x'"),
        ("--uds x --fd 0", "--uds and --fd exclude each other"),
        ("--uds x --port 80", "--port cannot be combined with --uds"),
        ("--fd 0 --host ::", "--host cannot be combined with --fd"),
        ("--uds x --reuse-port", "--reuse-port applies to a port only"),
        ("--port 70000", "--port must be from 0 to 65535, got 70000"),
        ("--limit-concurrency 0", "--limit-concurrency must be at least 1"),
        ("--limit-max-requests 0", "--limit-max-requests must be at least 1"),
        ("--limit-max-requests=-1", "--limit-max-requests must be at least 1"),
        (
            "--limit-max-requests 5 --limit-max-requests-jitter=-1",
            "--limit-max-requests-jitter must not be negative, got -1",
        ),
        ("--backlog 2147483648", "--backlog must be at most 2147483647"),
        ("--timeout-keep-alive=-1", "--timeout-keep-alive must not be negative"),
        ("--ssl-keyfile x", "--ssl-keyfile requires --ssl-certfile"),
        ("--ssl-ca-certs x", "--ssl-ca-certs requires --ssl-certfile"),
        ("--http nope", "--http must be one of auto, h11, httptools, zttp, native, got 'nope'"),
        (
            "--http httptools --h1-max-header-size 5000",
            "requires --http native or h11, got 'httptools'",
        ),
        ("--http h11 --h1-max-header-size 5", "--h1-max-header-size must be at least 1024, got 5"),
        (
            "--http h11 --h1-max-header-size 5000 --h11-max-incomplete-event-size 5000",
            "--h1-max-header-size and --h11-max-incomplete-event-size mean the same",
        ),
        (
            "--http zttp --request-timeout 5",
            "--request-timeout requires --http native, got 'zttp'",
        ),
        ("--http native --request-timeout 0", "--request-timeout must be above 0, got 0.0"),
        ("--http native --http2", "--http2 is not supported with --http native"),
        ("--http native --reset-contextvars", "--reset-contextvars is not supported"),
        ("--metrics-path metrics", "--metrics-path must begin with a slash, got 'metrics'"),
        (
            "--metrics-path /x --liveness-path /x",
            "--liveness-path and --metrics-path must differ, both are '/x'",
        ),
        ("--access-log-format %(z)s", "--access-log-format has no atom at '%(z)s'; there are"),
        ("--ws nope", "--ws must be one of auto, none, websockets"),
        ("--http json:nothing", "got 'json:nothing'"),
        ("--header nonsense", "--header must be Name:Value"),
        ("--workers 4", "--loops N"),
        ("--workers=4", "--loops N"),
        ("--loop uvloop", "--loops N"),
        ("--timeout-worker-healthcheck 3", "there are no workers"),
        ("--env-file /no/such/file", "/no/such/file"),
        ("--log-config /no/such/file", "/no/such/file"),
    ],
)
def test_what_contradicts_itself_is_refused(
    capsys: pytest.CaptureFixture[str], options: str, said: str
) -> None:
    assert said in refused(capsys, *options.split())


@pytest.mark.parametrize(
    "options",
    [
        {"shutdown_delay": 4, "timeout_graceful_shutdown": 2},
        {"shutdown_delay": float("nan")},
        {"readiness_path": "ready"},
        {"uds": "x", "fd": 0},
        {"ssl_keyfile": "x"},
        {"http": "nope"},
        {"log_level": "nope"},
        {"lifespan": "nope"},
        {"reload": True},
    ],
)
def test_from_python_it_is_a_value_error_that_names_the_argument(options: dict[str, Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    with pytest.raises(ValueError, match=next(iter(options))) as refusal:
        loop_pool.serve(app, **options)
    assert "`" not in str(refusal.value)
    assert "--" not in str(refusal.value)


def test_workers_from_python_are_told_what_to_use() -> None:
    with pytest.raises(TypeError, match=r"unexpected option 'workers': .*loops"):
        loop_pool.serve("no_such_module:app", workers=4)


def test_a_configuration_of_logging_that_is_none(tmp_path: Path) -> None:
    for name, text in (("a.json", "{"), ("b.json", '{"version": 2}'), ("c.ini", "[nothing]\n")):
        (tmp_path / name).write_text(text)
        with Serve(tmp_path, "--log-config", str(tmp_path / name), wait=None) as server:
            assert server.ended() == 2
        assert f"loop-pool: --log-config '{tmp_path / name}' is invalid: " in server.log
        assert "Traceback" not in server.log


def test_variables_of_workers_are_named_in_the_log(tmp_path: Path) -> None:
    environment = {"UVICORN_WORKERS": "4", "WEB_CONCURRENCY": "3", "UVICORN_LOOP": "uvloop"}
    options = ["--port", "0", "--loops", "2"]
    with Serve(tmp_path, *options, environment=environment) as server:
        for name, value in environment.items():
            assert f"{name}={value} is ignored: " in server.log
        server.stop()


# Applications that cannot be had


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("def app(:\n", "SyntaxError in {file}, line 1: "),
        ("\nif True:\napp = 5\n", "IndentationError in {file}, line 3: "),
    ],
)
def test_an_application_that_does_not_parse(tmp_path: Path, source: str, line: str) -> None:
    with Serve(tmp_path, source=source, wait=None) as server:
        assert server.ended() == 3
    assert server.log.count("\n") == 1
    assert server.log.startswith("loop-pool: " + line.format(file=tmp_path / "served.py"))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from json import nothing", "ImportError: cannot import name 'nothing'"),
        ("def __getattr__(name): raise KeyError(3)", "KeyError: 3"),
        ("import broken", "SyntaxError in "),
        ("try:\n    {}[1]\nexcept KeyError:\n    1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_at_import_is_told_from_where_the_application_begins(
    tmp_path: Path, source: str, error: str
) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    with Serve(tmp_path, source=source, wait=None) as server:
        assert server.ended() == 3
    assert f'File "{tmp_path}/served.py", line ' in server.log
    assert f"\nloop-pool: cannot serve the application: {error}" in server.log
    for ours in ("loop_pool/_serv", "uvicorn/", "importlib"):
        assert ours not in server.log


@pytest.mark.parametrize("target", ["no_such_package.module:app", "no_such_package:app"])
def test_a_package_that_is_not_there_is_named_with_the_target(tmp_path: Path, target: str) -> None:
    with Serve(tmp_path, target=target, wait=None) as server:
        assert server.ended() == 3
    assert server.log.count("\n") == 1
    assert f"loop-pool: cannot import {target!r}: " in server.log


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    options = ["--port", "0", "--ssl-certfile", str(tmp_path / "cert.pem")]
    with Serve(tmp_path, "--loops", "1", *options, wait=None) as server:
        assert server.ended() == 3
    assert f"loop-pool: cannot load '{tmp_path}/cert.pem' for TLS: " in server.log
    assert "Traceback" not in server.log


def test_what_reload_cannot_import_is_told_without_our_frames(tmp_path: Path) -> None:
    options = ["--port", "0", "--reload", "--reload-dir", str(tmp_path)]
    with Serve(tmp_path, *options, source="def app(:", wait="(SyntaxError in )") as server:
        server.tell()
        assert server.ended() == 0
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "2"], "--workers"),
        (["--loops", "0"], "0 is not in the range x>=1"),
        (["--header", "nonsense"], "--header must be Name:Value, got 'nonsense'"),
        (["--reload", "--uds", "x", "--fd", "0"], "give one"),
    ],
)
def test_a_wrong_option(tmp_path: Path, options: list[str], said: str) -> None:
    with Serve(tmp_path, *options, wait=None) as server:
        assert server.ended() == 2
    assert said in server.log
    assert "Traceback" not in server.log


def test_without_uvicorn_it_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ModuleNotFoundError('no', name='uvicorn')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = run_python("-m", "loop_pool", "serve", "served:app", env=environment)
    assert done.returncode == 3
    assert "pip install 'loop_pool[asgi]'" in done.stderr


# Metrics


@on_each_kind
@pytest.mark.skipif(find_spec("prometheus_client") is None, reason="its client is not there")
def test_the_metrics_of_the_pool(tmp_path: Path) -> None:
    options = ["--port", "0", "--loops", "2", "--metrics-path", "/metrics"]
    with Serve(tmp_path, *options, "--limit-concurrency", "1") as server:
        with Client(server.port) as client:
            client.ask("/metrics", close=True)
            status, headers, body = client.answer()
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=")
        for loop in ("loop-pool-0", "loop-pool-1"):
            assert f'loop_pool_turns_total{{loop="{loop}"}}' in body
        server.stop()


def test_metrics_without_the_package_for_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert _cli.main(["serve", "no_such_module:app", "--metrics-path", "/metrics"]) == 3
    assert "prometheus-client is not installed" in capsys.readouterr().err
