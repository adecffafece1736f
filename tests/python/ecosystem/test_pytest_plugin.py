"""The plugin of pytest: each test here runs pytest in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import re
import textwrap
import tomllib
from pathlib import Path

import pytest

from ..support import ROOT, TAKING_TURNS, run_python

loop_pool = pytest.importorskip("loop_pool")


ASYNCIO = ["-p", "no:anyio", "-o", "asyncio_mode=auto"]
ASYNCIO += ["-o", "asyncio_default_fixture_loop_scope=function"]
ANYIO = ["-p", "no:asyncio"]
NEITHER = ["-p", "no:asyncio", "-p", "no:anyio"]


class Folder:
    """Where tests are written and run. The plugin is there by the entry point of pyproject.toml."""

    def __init__(self, path: Path) -> None:
        self.path = path
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        points = project["entry-points"]["pytest11"]
        lines = ["[pytest11]", *(f"{name} = {module}" for name, module in points.items())]
        found = path / "found" / "as_installed-1.dist-info"
        found.mkdir(parents=True)
        (found / "entry_points.txt").write_text("\n".join(lines))
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: as_installed\nVersion: 1\n")
        # What a plugin's distribution holds has its asserts rewritten by pytest.
        (found / "RECORD").write_text("loop_pool/__init__.py,,\nloop_pool/pytest_plugin.py,,\n")

    def write(self, name: str, source: str) -> None:
        (self.path / name).write_text(textwrap.dedent(source))

    def run(self, *options: str, code: int = 0, warnings: str = "error") -> str:
        """Run what was written; it must end with `code`. Returns the output."""
        package = str(Path(loop_pool.__path__[0]).parent)
        paths = [str(self.path / "found"), package, os.environ.get("PYTHONPATH", "")]
        command = ["-W", warnings, "-W", f"ignore:{TAKING_TURNS}:RuntimeWarning", "-m", "pytest"]
        done = run_python(
            *(*command, "-p", "no:cacheprovider", "-q", "-rA", *options, "."),
            cwd=self.path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTEST_ADDOPTS": ""},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write("pytest.ini", "[pytest]\n")
    return folder


# The fixture `pool`


def test_a_synchronous_test_has_a_pool_of_its_own(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import asyncio, gc, threading
        import pytest
        import loop_pool

        seen = []

        async def main():
            idents = await loop_pool.broadcast(threading.get_ident)
            assert idents[0] == threading.main_thread().ident
            return set(idents), loop_pool.current_pool()

        def test_default(pool):
            idents, found = pool.run(main())
            assert len(idents) == len(pool.loops) == len(pool.stats()) == 3
            assert found is pool.pool
            assert pool.run(asyncio.sleep(0, "again")) == "again"
            assert pool.run(main())[0] == idents
            seen.append(found)

            async def left():
                await asyncio.Event().wait()
            async def leave():
                for loop in pool.loops:
                    seen.append(loop_pool.spawn(left(), loop=loop))
            pool.run(leave())

        def test_it_has_ended():
            found, *tasks = seen
            assert all(task.cancelled() for task in tasks)
            with pytest.raises(RuntimeError, match="closed"):
                found.loops
            assert threading.active_count() == 1

        @pytest.mark.loop_pool(loops=1, debug=True)
        @pytest.mark.parametrize("number", [1, 2])
        def test_marked(pool, number):
            assert len(pool.loops) == 1
            assert pool.loops[0].get_debug()
        """,
    )
    out = folder.run(*NEITHER, "--strict-markers", "-o", "loop_pool_loops=3")
    assert "4 passed" in out


def test_the_default_number_of_loops_is_small_and_not_one(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import pytest
        from loop_pool import _core
        @pytest.mark.parametrize(("cores", "loops"), [(1, 2), (3, 3), (64, 4)])
        def test_it(monkeypatch, request, cores, loops):
            monkeypatch.setattr(_core, "_cores", lambda: (None, None, cores, cores))
            assert len(request.getfixturevalue("pool").loops) == loops
        """,
    )
    assert "3 passed" in folder.run(*NEITHER)


def test_what_does_not_end_is_an_error_of_the_test(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import asyncio, pytest, loop_pool

        pytestmark = pytest.mark.loop_pool(loops=2, shutdown_timeout=0.05)

        async def stubborn(ended):
            while not ended.is_set():
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    pass

        async def start(pool):
            ended = await loop_pool.call(pool.loops[1], asyncio.Event)
            loop_pool.spawn(stubborn(ended), loop=pool.loops[1], name="stubborn")
            await loop_pool.call(pool.loops[1], lambda: None)

        def test_synchronous(pool):
            pool.run(start(pool))

        async def test_asynchronous(pool):
            await start(pool)

        def test_that_is_fine(pool):
            pass
        """,
    )
    # The interpreter complains of the tasks that are left, too.
    out = folder.run(*ASYNCIO, "--loop-pool", "-W", "default", code=1, warnings="default")
    assert re.search(r"\b3 passed\b.*\b2 errors\b", out), out
    said = re.findall(
        r"E?.*the pool did not shut down cleanly:\n.*loop-pool-1: this task did not end", out
    )
    assert len(said) >= 2, out
    assert "ERROR test_it.py::test_synchronous" in out
    assert "ERROR test_it.py::test_asynchronous" in out


def test_bad_arguments_are_named(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import pytest
        @pytest.mark.loop_pool(lops=2)
        def test_name(pool): pass
        @pytest.mark.loop_pool(loops=0)
        def test_value(pool): pass
        @pytest.mark.loop_pool(2)
        def test_position(pool): pass
        """,
    )
    out = folder.run(*NEITHER, code=1)
    assert "3 errors" in out
    assert re.search(r"test_name: mark.loop_pool: .*'lops'", out)
    assert re.search(r"test_value: mark.loop_pool: .*loops", out)
    assert "test_position: mark.loop_pool takes arguments by name only" in out


def test_a_bad_number_in_the_ini_file_is_named(folder: Folder) -> None:
    folder.write("test_it.py", "def test_it(pool): pass")
    out = folder.run(*NEITHER, "-o", "loop_pool_loops=many", code=1)
    assert "the ini option loop_pool_loops must be an integer above zero, got 'many'" in out


# pytest-asyncio


def test_tests_of_pytest_asyncio_run_on_the_loop(folder: Folder) -> None:
    folder.write("pytest.ini", "[pytest]\nloop_pool = true\n")
    folder.write(
        "test_it.py",
        """
        import asyncio, pytest, loop_pool

        LOG = []

        @pytest.fixture
        async def resource():
            loop = asyncio.get_running_loop()
            yield loop
            assert asyncio.get_running_loop() is loop
            LOG.append("fixture")

        async def close(value):
            LOG.append("local")
            await asyncio.to_thread(LOG.append, "executor")

        async def test_single(resource):
            assert type(resource) is loop_pool.EventLoop
            assert asyncio.get_running_loop() is resource
            with pytest.raises(RuntimeError, match="no running loop_pool"):
                loop_pool.current_pool()

        async def generate():
            try:
                yield 1
            finally:
                LOG.append("generator")

        @pytest.mark.loop_pool(loops=2)
        async def test_pool(resource, pool):
            del LOG[:]
            assert asyncio.get_running_loop() is resource is pool.loops[0]
            assert pool.pool is loop_pool.current_pool()
            assert [loop.get_debug() for loop in pool.loops] == [True, True]
            assert len(set(await loop_pool.broadcast(asyncio.get_running_loop))) == 2
            local = loop_pool.LoopLocal(object, close)
            await local
            global kept
            kept = pool.loops, generate()
            await anext(kept[1])

        def test_the_pool_has_ended_in_order():
            assert LOG == ["fixture", "local", "executor", "generator"]
            assert [loop.is_closed() for loop in kept[0]] == [True, True]

        @pytest.mark.loop_pool(loops=2)
        async def test_run(pool):
            with pytest.raises(RuntimeError, match="await the coroutine"):
                pool.run(asyncio.sleep(0))

        async def test_no_pool(pool):
            with pytest.raises(RuntimeError, match="needs the loop_pool mark"):
                pool.loops

        @pytest.mark.loop_pool(loops=2)
        @pytest.mark.asyncio(loop_scope="module")
        class TestShared:
            async def test_first(self, pool):
                LOG[:] = pool.loops
                asyncio.get_running_loop().call_soon(LOG.append, "still turning")
            async def test_second(self, pool):
                assert LOG == [*pool.loops, "still turning"]
        """,
    )
    assert "7 passed" in folder.run(*ASYNCIO, "-o", "asyncio_debug=true")


def test_an_error_on_another_loop_ends_each_run(folder: Folder) -> None:
    """`SystemExit` there fails the test that runs, with one pool for several tests too."""
    folder.write(
        "test_it.py",
        """
        import asyncio, pytest, loop_pool

        pytestmark = [pytest.mark.loop_pool(loops=2), pytest.mark.asyncio(loop_scope="module")]

        def leave():
            raise SystemExit(3)

        @pytest.mark.xfail(raises=SystemExit, strict=True)
        @pytest.mark.parametrize("number", [1, 2])
        async def test_it(pool, number):
            pool.loops[1].call_soon_threadsafe(leave)
            await asyncio.Event().wait()
        """,
    )
    assert "2 xfailed" in folder.run(*ASYNCIO, "--loop-pool")


def test_without_the_option_nothing_changes(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import asyncio, pytest, loop_pool
        async def test_it():
            assert not isinstance(asyncio.get_running_loop(), loop_pool.EventLoop)
        def test_hooks(pytestconfig):
            assert not pytestconfig.hook.pytest_asyncio_loop_factories.get_hookimpls()
        """,
    )
    assert "2 passed" in folder.run(*ASYNCIO)


def test_a_hook_of_the_project_goes_first(folder: Folder) -> None:
    folder.write(
        "conftest.py",
        """
        import asyncio
        def pytest_asyncio_loop_factories(config, item):
            return {"mine": asyncio.SelectorEventLoop}
        """,
    )
    folder.write(
        "test_it.py",
        """
        import asyncio
        async def test_it():
            assert type(asyncio.get_running_loop()) is asyncio.SelectorEventLoop
        """,
    )
    assert "1 passed" in folder.run(*ASYNCIO, "--loop-pool")


def test_the_option_without_pytest_asyncio_is_an_error(folder: Folder) -> None:
    folder.write("test_it.py", "def test_it(): pass")
    out = folder.run(*NEITHER, "--loop-pool", code=4)
    assert "needs a pytest-asyncio that has the hook" in out


# The others


def test_tests_of_anyio_run_in_pools(folder: Folder) -> None:
    folder.write(
        "test_it.py",
        """
        import asyncio, pytest, loop_pool
        from loop_pool.pytest_plugin import PoolFactory

        pytestmark = pytest.mark.anyio
        factory = PoolFactory(loops=2)
        seen = []

        @pytest.fixture(scope="module")
        def anyio_backend():
            return "asyncio", {"loop_factory": factory}

        @pytest.fixture
        async def resource():
            yield asyncio.get_running_loop()

        @pytest.mark.parametrize("number", [1, 2])
        async def test_it(resource, pool, number):
            assert asyncio.get_running_loop() is resource is pool.loops[0]
            assert len(set(await loop_pool.broadcast(asyncio.get_running_loop))) == 2
            assert all(loop.is_closed() for loop in seen)
            seen.extend(pool.loops)
        """,
    )
    assert "2 passed" in folder.run(*ANYIO)


def test_the_examples_of_the_documentation(folder: Folder) -> None:
    text = (ROOT / "docs" / "testing.md").read_text()
    examples = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    assert len(examples) == text.count("```python")
    for name, source in examples:
        folder.write(name, source)
    folder.write(
        "test_single.py",
        """
        import asyncio, pytest, loop_pool
        pytestmark = pytest.mark.anyio
        async def test_single():
            assert type(asyncio.get_running_loop()) is loop_pool.EventLoop
        """,
    )
    assert "5 passed" in folder.run(*ANYIO, "--ignore=test_async.py")
    (ini,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    folder.write("pytest.ini", ini)
    options = ["-p", "no:anyio", "-o", "asyncio_default_fixture_loop_scope=function"]
    not_here = [f"--ignore=test_{name}.py" for name in ("anyio", "single", "sync", "unittest")]
    assert "2 passed" in folder.run(*options, *not_here)


@pytest.mark.usefixtures("clean_process")
def test_the_pool_of_a_factory_ends_with_its_loop() -> None:
    """However that is closed: the block of `clean_process` finds no thread of it."""
    from loop_pool.pytest_plugin import PoolFactory

    async def main() -> loop_pool.Pool:
        with pytest.raises(RuntimeError, match="running"):
            loop.close()
        await loop_pool.broadcast(asyncio.sleep, 0)
        return loop_pool.current_pool()

    loop = PoolFactory(loops=2)()
    pool = loop.run_until_complete(main())
    loops = pool.loops
    loop.close()
    loop.close()
    assert [each.is_closed() for each in loops] == [True, True]
    with pytest.raises(RuntimeError, match="closed"):
        _ = pool.loops
    with pytest.raises(ValueError, match="loops"):
        PoolFactory(loops=0)
