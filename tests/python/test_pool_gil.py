"""With a GIL the pool works and says once that Python callbacks take turns."""

from __future__ import annotations

import textwrap

import pytest

from _support import FREE_THREADED, check_script

TWO_POOLS = """
    import asyncio, sys, warnings
    import loop_pool
    async def main():
        loops = loop_pool.current_pool().loops
        return await loop_pool.spawn(asyncio.sleep(0, len(loops)), loop=loops[-1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert loop_pool.run(main(), loops=int(sys.argv[1])) == int(sys.argv[1])
    for warning in caught:
        print(warning.category.__name__, warning.message)
"""

WITH_GIL = {"PYTHON_GIL": "1"} if FREE_THREADED else {}
"""The environment in which a program runs with a GIL."""

free_threaded = pytest.mark.skipif(not FREE_THREADED, reason="this interpreter has a GIL")


def test_a_pool_with_a_gil_says_once_that_callbacks_take_turns() -> None:
    (line,) = check_script(TWO_POOLS, "2", env=WITH_GIL).splitlines()
    assert line.startswith("RuntimeWarning ")
    assert "global interpreter lock" in line
    assert "turns" in line


def test_one_loop_with_a_gil_is_no_reason_to_warn() -> None:
    assert check_script(TWO_POOLS, "1", env=WITH_GIL) == ""


@free_threaded
def test_without_a_gil_nothing_is_said() -> None:
    assert check_script(TWO_POOLS, "2") == ""


@free_threaded
def test_an_import_that_switched_the_gil_on_is_named_where_it_can_be() -> None:
    # A module of CPython's own tests, which does not declare that it can do without the GIL.
    source = """
        import importlib.machinery, importlib.util, sys, warnings
        import _testmultiphase
        warnings.simplefilter("ignore")
        name, path = "_testmultiphase_null_slots", _testmultiphase.__file__
        loader = importlib.machinery.ExtensionFileLoader(name, path)
        spec = importlib.util.spec_from_file_location(name, path, loader=loader)
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        sys.modules[name] = module
        assert sys._is_gil_enabled()
    """
    (line,) = check_script(textwrap.dedent(source) + textwrap.dedent(TWO_POOLS), "2").splitlines()
    assert line.startswith("RuntimeWarning ")
    assert "global interpreter lock is on" in line
    # A module without slots declares by a call, if at all, so it cannot be told from one that did.
    assert "_testmultiphase_null_slots" in line or "cannot be known" in line
