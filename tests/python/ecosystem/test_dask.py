"""Dask's workers run their tasks on the loops of a `PoolExecutor`.

In a process of its own: Dask writes a configuration at its first import and keeps threads.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import textwrap
from pathlib import Path

import pytest

from ..support import ROOT, check_script

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs distributed"
)

PROGRAM = """
    import asyncio, sys, threading
    import distributed, loop_pool
    from tests.python.support import HANG, eventually, wait_for

    gate = threading.Event()
    begun = []

    # What the worker does. Dask sends functions of a module by name.

    def name_of_thread(number):
        return threading.current_thread().name

    def fail(number):
        raise ZeroDivisionError(f"of {number}")

    def wait(number):
        begun.append(number)
        assert gate.wait(HANG)
        return number

    async def work(client, worker):
        names = await client.gather(client.map(name_of_thread, range(50)))
        assert {"loop-pool-executor", "loop-pool-1"} >= set(names), names

        # Two at once: one on each loop.
        running = [client.submit(wait, number, pure=False) for number in range(2)]
        await eventually(lambda: len(begun) == 2, "two tasks begin")
        waiting = [client.submit(wait, number, pure=False) for number in range(2, 4)]
        key = waiting[0].key
        await eventually(lambda: key in worker.state.tasks, "the worker has a third task")
        await waiting[0].cancel()
        assert waiting[0].cancelled()
        await eventually(lambda: key not in worker.state.tasks, "the worker has heard of it")
        try:
            await waiting[0]
        except distributed.client.FutureCancelledError:
            print("cancelled")
        gate.set()
        print(await client.gather([*running, waiting[1]]), len(begun))

        failing = client.submit(fail, 7)
        try:
            await failing
        except ZeroDivisionError as error:
            print("failed", error)
        print(await client.submit(pow, client.submit(pow, 2, 3), 2))

    async def main(folder):
        here = {"host": "127.0.0.1", "dashboard": False}
        executor = loop_pool.PoolExecutor(2)
        async with distributed.Scheduler(port=0, **here) as scheduler:
            options = {"nthreads": 2, "local_directory": folder, **here}
            async with (
                distributed.Worker(scheduler.address, executor=executor, **options) as worker,
                distributed.Client(scheduler.address, asynchronous=True) as client,
            ):
                assert worker.executor is executor
                try:
                    await work(client, worker)
                finally:
                    gate.set()  # after a failure, too, or nothing ends
        try:
            executor.submit(print)
        except RuntimeError as error:
            print(error)

    def run():
        asyncio.run(asyncio.wait_for(main(sys.argv[1]), HANG))

        def ended():
            return not any("loop-pool" in thread.name for thread in threading.enumerate())

        wait_for(ended, "the threads of the pool end")
        print("GIL", sys._is_gil_enabled())
"""


def test_a_worker_runs_its_tasks_in_a_pool(tmp_path: Path) -> None:
    """With results, exceptions and a cancelled task; the worker's end is the executor's."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DASK_CONFIG": str(tmp_path),
        "DASK_LOGGING__DISTRIBUTED": "critical",  # it logs a task that fails as an error
    }
    printed = check_script("import program; program.run()", str(tmp_path), env=env)
    assert printed.splitlines() == [
        "cancelled",
        "[0, 1, 3] 3",
        "failed of 7",
        "64",
        "cannot schedule new futures after shutdown",
        f"GIL {sys._is_gil_enabled()}",
    ]
