"""Frameworks that bring a loop of their own choice run on ours; no import brings the GIL back."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
from typing import TYPE_CHECKING

import pytest

from ..support import FREE_THREADED, HANG, check_script, factory_path, run_python

if TYPE_CHECKING:
    from pathlib import Path

    from ..support import LoopFactory


# anyio


@pytest.mark.usefixtures("clean_process")
def test_anyio_runs_on_the_loop(loop_factory: LoopFactory) -> None:
    import asyncio

    import anyio
    import anyio.to_thread

    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async def main() -> type:
        async with anyio.create_task_group() as group:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            group.start_soon(listener.serve, echo)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                await client.send(b"through anyio")
                assert await client.receive() == b"through anyio"
            assert await anyio.to_thread.run_sync(os.getpid) == os.getpid()
            with anyio.move_on_after(0.001) as scope:
                await anyio.sleep(HANG)
            assert scope.cancelled_caught
            process = await anyio.run_process([sys.executable, "-c", "print('hi')"])
            assert process.stdout == b"hi\n"
            group.cancel_scope.cancel()
        await listener.aclose()
        return type(asyncio.get_running_loop())

    kind = anyio.run(main, backend="asyncio", backend_options={"loop_factory": loop_factory})
    # It tells its threads to end, and does not wait for them.
    for thread in threading.enumerate():
        if thread.name == "AnyIO worker thread":
            thread.join(HANG)
    assert kind.__module__.startswith(factory_path(loop_factory).partition(":")[0])


# pytest-asyncio


def test_pytest_asyncio_runs_tests_on_the_loop(loop_factory: LoopFactory, tmp_path: Path) -> None:
    module, _, name = factory_path(loop_factory).partition(":")
    (tmp_path / "conftest.py").write_text(
        textwrap.dedent(
            f"""
            import {module}
            def pytest_asyncio_loop_factories(config, item):
                return {{"tested": {module}.{name}}}
            """
        )
    )
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            f"""
            import asyncio, pytest
            @pytest.fixture
            async def resource():
                loop = asyncio.get_running_loop()
                yield loop
                assert asyncio.get_running_loop() is loop
            async def test_it(resource):
                loop = asyncio.get_running_loop()
                assert loop is resource
                assert type(loop).__module__.startswith("{module}")
                assert await asyncio.sleep(0.001, 5) == 5
            """
        )
    )
    command = ["-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-q", "-p", "no:anyio"]
    options = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = run_python(*command, *options, "--rootdir", tmp_path, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


# The GIL


@pytest.mark.skipif(not FREE_THREADED, reason="this interpreter has a GIL")
@pytest.mark.loop_pool_only
@pytest.mark.parametrize(
    "package", ["aiohttp", "anyio", "httptools", "httpx", "uvicorn", "websockets"]
)
def test_no_import_brings_the_gil_back(loop_factory: LoopFactory, package: str) -> None:
    source = """
        import importlib, sys
        import loop_pool
        importlib.import_module(sys.argv[1])
        print(sys._is_gil_enabled())
    """
    assert check_script(source, package) == "False\n"
