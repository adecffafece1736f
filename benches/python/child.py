"""The process in which `micro.py` takes the samples of one event loop, or of tonio.

`python child.py PEER` answers one line of JSON on standard output for each line of JSON that it
reads from standard input, and ends at end of file. Nothing is compared here: a sample goes out as
it was measured. The cyclic garbage collector is off during a sample (as in `timeit`), so that no
collection falls into one loop's sample by chance.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import environment
import workloads_tonio
from sampling import LoopFactory, Sample
from workloads import WORKLOADS

LOOPS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
    "zuvloop": ("zuvloop", "new_event_loop"),
    "talyn": ("talyn", "Loop"),
    "mt_asyncio": ("mt_asyncio.asyncio", "new_event_loop"),
    "loop_pool": ("loop_pool", "new_event_loop"),
}
"""Loop name -> module and the name of its loop factory."""
MT_ASYNCIO = "mt_asyncio"
"""A loop whose tasks and callbacks run on the threads of a runtime, of which a process has one."""
NO_EAGER_TASKS = "its tasks cannot be eager: with asyncio.eager_task_factory the run never ends"
UNABLE = {
    MT_ASYNCIO: {
        "eager_done": NO_EAGER_TASKS,
        "eager_suspended": NO_EAGER_TASKS,
        "two_loops": "all of its loops share the threads of one runtime, here one thread, which "
        "the first of two loops that wait for each other keeps",
    },
}
"""Loop name -> workload -> why it has no sample of it: it was tried, and hangs."""


TONIO = "tonio"
"""A peer that is no event loop: only `workloads_tonio.py` has samples of it."""
PEERS = [*LOOPS, TONIO]
"""All peers of the micro benchmarks."""


def find_version(module_name: str) -> str:
    """The version of a package that is imported, or can be; of asyncio it is Python's."""
    module = importlib.import_module(module_name)
    if module_name == "asyncio":
        return sys.version.split()[0]
    try:
        return importlib.metadata.version(module_name.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return f"{getattr(module, '__version__', 'unknown')} (not installed)"


def load_factory(loop_name: str, threads: int = 1) -> tuple[LoopFactory, str]:
    """Return the loop factory named `loop_name` and the version of what makes it.

    `threads` is for `MT_ASYNCIO`. Raises `ImportError` or `AttributeError` if it is not there.
    """
    if loop_name in environment.NEED_LIBPYTHON and environment.libpython_stub().exists():
        ctypes.CDLL(str(environment.libpython_stub()))
    module_name, attribute = LOOPS[loop_name]
    module = importlib.import_module(module_name)
    if loop_name == MT_ASYNCIO:
        # asyncio's own names become those of mt_asyncio, as its documentation has it for programs
        # that say `import asyncio`.
        module.compat.install()
        importlib.import_module(MT_ASYNCIO).runtime(threads=threads, context=True)
    factory = cast("LoopFactory", getattr(module, attribute))
    return factory, find_version(module_name)


Take = Callable[[str, int], Sample]
"""Takes a sample: name of a workload, number of operations."""


def load_peer(name: str) -> tuple[Take, str]:
    """Return what takes samples of a peer, and its version; raises what keeps it from running."""
    if name == TONIO:
        return workloads_tonio.Runner().take_sample, find_version(TONIO)
    factory, version = load_factory(name)
    factory().close()
    unable = UNABLE.get(name, {})

    def take(workload: str, operations: int) -> Sample:
        if workload in unable:
            raise NotImplementedError(unable[workload])
        return WORKLOADS[workload].take(factory, operations)

    return take, version


def _take_sample(take: Take, workload: str, operations: int) -> Sample:
    gc.collect()
    gc.disable()
    try:
        return take(workload, operations)
    finally:
        gc.enable()


def describe_error(error: BaseException) -> str:
    """One line: the error and what it came from."""
    text = f"{type(error).__name__}: {error}"
    first = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    return text if first is error else f"{text} (after {type(first).__name__}: {first})"


def serve(peer: str) -> None:
    """Answer the parent's requests until it closes standard input."""
    # Whatever a loop or its packages print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        take, version = load_peer(peer)
    except Exception as error:
        answer({"error": describe_error(error)})
        return
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    answer({"version": version, "gil_enabled": gil_enabled})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer({"sample": _take_sample(take, request["workload"], request["operations"])})
        except NotImplementedError as error:
            answer({"unable": str(error)})
        except Exception as error:
            answer({"error": describe_error(error)})


if __name__ == "__main__":
    serve(sys.argv[1])
