"""The process in which `micro.py` takes the samples of one event loop.

`python child.py LOOP` answers one line of JSON on standard output for each line of JSON that it
reads from standard input, and ends at end of file. Nothing is compared here: a sample goes out as
it was measured. The cyclic garbage collector is off during a sample (as in `timeit`), so that no
collection falls into one loop's sample by chance.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import sys
from typing import Any, cast

from workloads import WORKLOADS, LoopFactory, Sample

LOOPS = {
    "asyncio": ("asyncio", "SelectorEventLoop"),
    "uvloop": ("uvloop", "new_event_loop"),
    "rloop": ("rloop", "new_event_loop"),
    "zuvloop": ("zuvloop", "new_event_loop"),
    "loop_pool": ("loop_pool", "new_event_loop"),
}
"""Loop name -> module and the name of its loop factory."""


def load_factory(loop_name: str) -> tuple[LoopFactory, str]:
    """Return the loop factory named `loop_name` and the version of what makes it.

    Raises `ImportError` or `AttributeError` if it is not there.
    """
    module_name, attribute = LOOPS[loop_name]
    module = importlib.import_module(module_name)
    factory = cast("LoopFactory", getattr(module, attribute))
    if module_name == "asyncio":
        return factory, sys.version.split()[0]
    try:
        return factory, importlib.metadata.version(module_name)
    except importlib.metadata.PackageNotFoundError:
        return factory, f"{getattr(module, '__version__', 'unknown')} (not installed)"


def _take_sample(factory: LoopFactory, request: dict[str, Any]) -> Sample:
    gc.collect()
    gc.disable()
    try:
        return WORKLOADS[request["workload"]].take(factory, request["operations"])
    finally:
        gc.enable()


def describe_error(error: BaseException) -> str:
    """One line: the error and what it came from."""
    text = f"{type(error).__name__}: {error}"
    first = error
    while cause := first.__cause__ or first.__context__:
        first = cause
    return text if first is error else f"{text} (after {type(first).__name__}: {first})"


def serve(loop_name: str) -> None:
    """Answer the parent's requests until it closes standard input."""
    # Whatever a loop or its packages print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        factory, version = load_factory(loop_name)
        factory().close()
    except Exception as error:
        answer({"error": describe_error(error)})
        return
    gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    answer({"version": version, "gil_enabled": gil_enabled})
    for line in sys.stdin:
        try:
            answer({"sample": _take_sample(factory, json.loads(line))})
        except Exception as error:
            answer({"error": describe_error(error)})


if __name__ == "__main__":
    serve(sys.argv[1])
