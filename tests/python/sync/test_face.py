"""`loop_pool.sync`: its names, arguments, documentation, and what is said without the extra."""

from __future__ import annotations

import asyncio
import copy
import inspect
import re

import pytest

pytest.importorskip("loop_pool")
pytest.importorskip("aiologic")
from loop_pool import sync

from ..support import ROOT, check_script

# As asyncio's


@pytest.mark.parametrize(
    "name", ["Lock", "Semaphore", "BoundedSemaphore", "Event", "Condition", "Barrier", "Queue"]
)
def test_it_has_all_that_asyncio_s_class_has(name: str) -> None:
    theirs, ours = getattr(asyncio, name), getattr(sync, name)
    for member, value in inspect.getmembers(theirs):
        if member.startswith("_") and member not in {"__aenter__", "__aexit__"}:
            continue
        mine = getattr(ours, member)
        assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(value), member
        if callable(value) and member != "acquire":  # a plain attribute of a condition there
            wanted = [each for each in inspect.signature(value).parameters if each != "self"]
            given = [each for each in inspect.signature(mine).parameters if each != "self"]
            assert given[: len(wanted)] == wanted or member == "__aexit__", member


def test_arguments_are_asyncio_s() -> None:
    assert not sync.Semaphore(value=1).locked()
    assert sync.BoundedSemaphore(value=0).locked()
    assert sync.Barrier(parties=3).parties == 3
    for wrong in (
        lambda: sync.Semaphore(-1),
        lambda: sync.BoundedSemaphore(-1),
        lambda: sync.CapacityLimiter(-1),
        lambda: sync.Barrier(0),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(TypeError, match="Lock or RLock"):
        sync.Condition(asyncio.Lock())  # type: ignore[arg-type]


def test_a_copy_is_a_fresh_one_of_the_same_size() -> None:
    for each in (sync.Semaphore(2), sync.BoundedSemaphore(2)):
        with each:
            fresh = copy.copy(each)
        assert type(fresh) is type(each)
        assert fresh.value == 2


@pytest.mark.parametrize("absent", ["aiologic", "culsans"])
def test_without_the_extra_the_error_says_how_to_get_it(absent: str) -> None:
    source = """
        import sys
        sys.modules[sys.argv[1]] = None
        import loop_pool
        try:
            import loop_pool.sync
        except ImportError as error:
            print(error.name, error)
    """
    said = check_script(source, absent)
    assert said.startswith(f"{absent} {absent} is not installed")
    assert "pip install 'loop_pool[sync]'" in said


SHOWN = [name for name in sync.__all__ if getattr(sync, name).__module__.startswith("loop_pool.")]


@pytest.mark.parametrize("name", SHOWN)
def test_it_is_documented_with_its_threads(name: str) -> None:
    thing = getattr(sync, name)
    assert re.search(r"\bthreads?\b", thing.__doc__ or "", re.IGNORECASE), name
    for member, value in vars(thing).items():
        assert member.startswith("_") or inspect.getdoc(value), f"{name}.{member}"


def test_what_is_shown_is_what_all_says() -> None:
    assert sync.__all__ == sorted(sync.__all__)
    own = {name for name, value in vars(sync).items() if inspect.isclass(value)}
    names = {name for name in own if not name.startswith("_")} - {"Any", "Self", "Literal"}
    assert names == set(sync.__all__)


# The documentation

PAGE = ROOT / "docs" / "sync.md"

EXAMPLES = re.findall(
    r"^### (\w+)\n\n```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("name", "source"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_the_example_of_each_class_prints_what_it_says(name: str, source: str) -> None:
    last = source.rstrip().rpartition("  # ")[2]
    assert f"sync.{name}(" in source
    assert check_script(source) == f"{last}\n"


def test_there_is_an_example_of_each_kind() -> None:
    variants = {"BoundedSemaphore", "LifoQueue", "PriorityQueue"}
    classes = {name for name in SHOWN if not name.endswith("Error")} - variants
    assert {name for name, _ in EXAMPLES} == classes
