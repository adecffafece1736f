"""The runner of uvicorn's own tests: what it must notice, on made-up tests."""

from __future__ import annotations

import subprocess
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from ..serve.kinds import is_there
from ..support import run_python
from .suite import HERE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    type Suite = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.skipif(not is_there("native"), reason="there is no native HTTP"),
    pytest.mark.skipif(find_spec("anyio") is None, reason="anyio is not there"),
]

CONFTEST = """
    import pytest

    @pytest.fixture
    def unused_tcp_port(): return 0

    @pytest.fixture(params=["h11"])
    def http_protocol_cls(request): return request.param

    @pytest.fixture
    def ws_protocol_cls(): pass

    @pytest.fixture
    def anyio_backend(): return "asyncio"
"""

HEAD = """
    import pytest
    from uvicorn import Config
    from uvicorn.server import ServerState

    pytestmark = pytest.mark.anyio

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 201})
        await send({"type": "http.response.body", "body": b"made up"})

    def asked(http_protocol_cls):
        config = Config(app)
        config.load()
        protocol = http_protocol_cls(config, ServerState(), {}, _loop=object())
        protocol.connection_made(None)
        protocol.data_received(b"GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
        return protocol

    async def test_a_passes(http_protocol_cls):
        protocol = asked(http_protocol_cls)
        assert protocol.transport.buffer == b""
        await protocol.loop.run_one()
        assert protocol.transport.buffer.startswith(b"HTTP/1.1 201 ")
        assert b"server: loop-pool" in protocol.transport.buffer
        assert not protocol.transport.is_closing()

    def test_asks_for_no_server():
        assert False
"""


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Runs the runner on made-up tests and returns what it said; `body` is appended to `HEAD`."""

    def run(
        body: str = "", *options: str, exclusions: str = ""
    ) -> subprocess.CompletedProcess[str]:
        tests = tmp_path / "tests"
        (tests / "protocols").mkdir(parents=True)
        for package in (tests, tests / "protocols"):
            (package / "__init__.py").touch()
        (tests / "conftest.py").write_text(textwrap.dedent(CONFTEST))
        (tests / "utils.py").write_text("from uvicorn import Server\n")
        source = textwrap.dedent(HEAD) + textwrap.dedent(body)
        (tests / "protocols" / "test_http.py").write_text(source)
        listed = tmp_path / "exclusions.toml"
        listed.write_text(exclusions)
        return run_python(HERE / "suite.py", tmp_path, "--exclusions", listed, *options)

    return run


def excluded(*tests: str, reason: str = "made up") -> str:
    """The text of a file of exclusions."""
    return f'[[exclusion]]\ntests = {[*tests]}\nreason = "{reason}"\n'


def end_of(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """The exit status and the last line."""
    return done.returncode, done.stdout.splitlines()[-1]


def test_a_test_is_driven_over_a_socket_and_counted(suite: Suite) -> None:
    done = suite()
    assert end_of(done) == (0, "1 passed, 0 failed, 0 skipped"), done.stdout


def test_a_failure_fails_the_run_unless_it_is_excluded(suite: Suite, tmp_path: Path) -> None:
    body = """
        async def test_fails(http_protocol_cls):
            assert b"HTTP/1.1 200 " in asked(http_protocol_cls).transport.buffer
    """
    done = suite(body)
    assert end_of(done) == (1, "1 passed, 1 failed, 0 skipped"), done.stdout
    (tmp_path / "exclusions.toml").write_text(excluded("test_http.test_fails"))
    listed = ["--exclusions", tmp_path / "exclusions.toml"]
    done = run_python(HERE / "suite.py", tmp_path, *listed)
    assert end_of(done) == (0, "1 passed, 0 failed, 1 skipped"), done.stdout
    done = run_python(HERE / "suite.py", tmp_path, *listed, "--check-exclusions")
    assert end_of(done) == (0, "1 passed, 0 failed, 0 skipped"), done.stdout


def test_a_test_that_reaches_no_native_server_fails(suite: Suite) -> None:
    done = suite("async def test_talks_to_nobody(http_protocol_cls): pass")
    assert "it has made no native server" in done.stdout
    assert end_of(done) == (1, "1 passed, 1 failed, 0 skipped"), done.stdout


@pytest.mark.parametrize(
    ("listed", "option", "said"),
    [
        ("test_http.test_gone", (), "test_http.test_gone: no such test"),
        ("test_http.test_a_passes", ("--check-exclusions",), "passes, so it need not be excluded"),
    ],
)
def test_a_stale_exclusion_fails_the_run(
    suite: Suite, listed: str, option: tuple[str, ...], said: str
) -> None:
    done = suite("", *option, exclusions=excluded(listed))
    assert done.returncode == 1
    assert said in done.stdout


def test_an_exclusion_without_a_reason_is_refused(suite: Suite) -> None:
    done = suite(exclusions=excluded("test_http.test_a_passes", reason=" "))
    assert done.returncode == 2
    assert "without a reason" in done.stderr
