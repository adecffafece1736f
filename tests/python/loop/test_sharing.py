"""Nothing that every loop uses is counted: its count would be one cache line for all cores."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import sysconfig

import pytest

pytest.importorskip("loop_pool")

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED") or sys.platform != "linux",
    reason="counts are shared between threads only on the free-threaded build; native on Linux",
)


def test_the_types_behind_every_task_step_are_not_counted() -> None:
    assert sys._is_immortal(asyncio.Task)
    assert sys._is_immortal(asyncio.Future)


def test_a_pool_of_several_loops_does_not_count_asyncio_s_functions() -> None:
    code = (
        "import asyncio, sys, loop_pool, gc\n"
        "async def main(): return sys._is_immortal(asyncio.sleep)\n"
        "assert not loop_pool.run(main(), loops=1)\n"
        "assert loop_pool.run(main(), loops=2)\n"
        "gc.collect()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_an_object_of_another_thread_is_left_alone() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from loop_pool import _core

    with ThreadPoolExecutor(1) as executor:
        theirs = executor.submit(lambda: [object()]).result()
        assert _core._stop_counting(theirs) == 0
        assert not sys._is_immortal(theirs)
        ours = [object()]
        assert _core._stop_counting(ours) == 1
    gc.collect()
    assert sys._is_immortal(ours)
