"""The servers that other tests use: they start, answer, and leave nothing behind."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from .. import services

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("clean_process")


@pytest.mark.parametrize("server", [services.postgres, services.redis, services.nats])
def test_a_server_listens_while_it_is_used(
    server: Callable[[], AbstractContextManager[str]],
) -> None:
    with server() as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        socket.create_connection(("127.0.0.1", port), services.HANG).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), services.HANG)


def test_postgres_answers_a_query() -> None:
    import asyncpg

    async def main() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval("select 6 * 7")
        finally:
            await connection.close()

    with services.postgres() as url:
        assert asyncio.run(main()) == 42


def test_a_server_that_does_not_start_says_why() -> None:
    port = services.free_port()
    with pytest.raises(
        services.services.ServiceError, match=r"(?s)haproxy ended: .*unknown keyword 'nonsense'"
    ):
        with services.haproxy("nonsense\n", port):
            pass


def test_what_is_not_installed_is_left_out_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.delenv("LOOP_POOL_ALL_SERVICES", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"redis-server is not installed \(make"):
        services.program("redis-server")
    monkeypatch.setenv("LOOP_POOL_ALL_SERVICES", "1")
    with pytest.raises(pytest.fail.Exception, match="redis-server is not installed"):
        services.program("redis-server")
    for name in services.services.LARGE:
        with pytest.raises(pytest.skip.Exception, match=r"not installed \(make services\)"):
            services.program(name)


# The tool that installs them.


@pytest.mark.parametrize(("options", "status"), [([], 1), (["--if-possible"], 0), (["--large"], 1)])
def test_the_tool_says_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    status: int,
) -> None:
    tool = services._tool()
    gone = {"postgres", "haproxy", *tool.LARGE}
    monkeypatch.setattr(tool, "where", lambda program: None if program in gone else program)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert tool.main(options) == status
    said = capsys.readouterr().err
    assert "As root: apt-get install --no-install-recommends postgresql haproxy\n" in said
    assert ("left out" in said) == (status == 0)
    # What is large has to be asked for.
    assert all((f"missing: {name}." in said) == ("--large" in options) for name in tool.LARGE)


@pytest.mark.parametrize("theirs", [None, "#!/bin/sh\nexit 0\n"])
def test_the_tool_lets_no_package_start_its_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str | None
) -> None:
    tool = services._tool()
    policy = tmp_path / "policy-rc.d"
    if theirs is not None:
        policy.write_text(theirs)
    monkeypatch.setattr(tool, "POLICY", policy)
    with tool.no_server_starts():
        if theirs is None:
            assert subprocess.run([policy], check=False).returncode == 101
        else:
            assert policy.read_text() == theirs
    assert policy.exists() == (theirs is not None)
