"""Keeps the rooms of the package true: which module may import which.

Every import counts, whether it runs, waits in a function or stands under `if TYPE_CHECKING`: who
names a type of another room cannot be read without that room. The one file that is exempt is
`_core.pyi`: it tells type checkers which classes of the rooms above the native half hands out, and
nothing ever runs it. Each rule is a function from sources to violations; the last part of this file
shows for each of them that it bites.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

loop_pool = pytest.importorskip("loop_pool")

PACKAGE = Path(loop_pool.__path__[0])

ROOMS = [
    {"_core"},
    {"_loop"},
    {"_pool"},
    {"_inspect"},
    {"metrics"},
    {"_serve", "_worker", "pytest_plugin", "sync", "tls"},
    {"_cli"},
    {"", "_cgroup", "_streams"},
]
"""The rooms, the lowest first. A module may import its own room and those below it, but none that
stands beside it. The last are what programs import and start: the package itself, `__main__`, and
two old names."""

MAX_LINES = 500

type Sources = dict[str, str]
"""Source by path: `_loop/event_loop.py`."""


# The rules


def upward(sources: Sources) -> list[str]:
    """Imports point down, or stay in their room."""
    known = {name: level for level, names in enumerate(ROOMS) for name in names}
    wrong = []
    for path, target in imports(sources):
        own, other = room_of(path), room_of(target)
        if own not in known:
            wrong.append(f"{path} is in no room")
        elif own != other and known[own] <= known[other]:
            wrong.append(f"{path} imports {target}, which is not below it")
    return wrong


def circles(sources: Sources) -> list[str]:
    """No file needs itself, by however many others."""
    below: dict[str, set[str]] = {path: set() for path in sources}
    for path, target in imports(sources):
        if target != path:
            below[path].add(target)
    while leaves := [path for path, targets in below.items() if not targets & below.keys()]:
        for path in leaves:
            del below[path]
    return [
        f"{path} imports {target}, and that needs {path} in turn"
        for path, targets in sorted(below.items())
        for target in sorted(targets & below.keys())
        if path in reachable(target, below)
    ]


def long_files(sources: Sources) -> list[str]:
    """A file is short enough to be read in one go."""
    counted = {path: source.count("\n") for path, source in sources.items()}
    return [f"{path} has {lines} lines" for path, lines in counted.items() if lines > MAX_LINES]


def reachable(start: str, below: dict[str, set[str]]) -> set[str]:
    """The files that a file needs."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for target in below.get(todo.pop(), set()) - seen:
            seen.add(target)
            todo.append(target)
    return seen


# What is read


def room_of(path: str) -> str:
    """The room of a file: its folder, or for a file of the package itself its own name."""
    first, *rest = path.removesuffix(".py").split("/")
    return first if rest or first not in {"__init__", "__main__"} else ""


def imports(sources: Sources) -> Iterator[tuple[str, str]]:
    """Each import of one file of the package by another, as their paths."""
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            for module in imported(path, node):
                if (target := file_of(module, sources)) is not None:
                    yield path, target


def imported(path: str, node: ast.AST) -> Iterator[list[str]]:
    """The modules that a statement imports, as their names within the package."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        yield from (name[1:] for name in names if name[0] == "loop_pool")
    elif isinstance(node, ast.ImportFrom):
        named = node.module.split(".") if node.module else []
        if node.level:
            folder = path.split("/")[:-1]
            base = folder[: len(folder) - node.level + 1] + named
        elif named[0] == "loop_pool":
            base = named[1:]
        else:
            return
        yield from ([*base, alias.name] for alias in node.names)


def file_of(module: list[str], sources: Sources) -> str | None:
    """The file of a module, or of the one that has such a name in it; the native half's is none."""
    if module[:1] == ["_core"]:
        return None
    for path in ("/".join(module), "/".join(module[:-1])):
        for file in (f"{path}.py", f"{path}/__init__.py".removeprefix("/")):
            if file in sources:
                return file
    raise AssertionError(f"there is no module {'.'.join(module)}")


# The package


def package() -> Sources:
    """The sources of the package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in files}


def test_every_room_is_there() -> None:
    names = {room_of(path) for path in package()} | {"_core"}
    assert names == set().union(*ROOMS)


def test_imports_point_down() -> None:
    assert upward(package()) == []


def test_no_files_need_each_other() -> None:
    assert circles(package()) == []


def test_no_file_is_long() -> None:
    assert long_files(package()) == []


# The rules can fail


@pytest.mark.parametrize(
    "source",
    [
        "from .._pool.pool import Pool",
        "from .._pool import pool",
        "from loop_pool._pool.pool import Pool",
        "from loop_pool._pool import pool as p",
        "import loop_pool._pool.pool",
        "def f():\n    from .._pool.pool import Pool",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .._pool.pool import Pool",
        "class A:\n    try:\n        from .._pool import pool\n    finally:\n        pass",
    ],
)
def test_an_import_of_a_room_above_is_found(source: str) -> None:
    sources = {"_loop/tls.py": source, "_pool/pool.py": "class Pool: ..."}
    assert upward(sources) == ["_loop/tls.py imports _pool/pool.py, which is not below it"]


@pytest.mark.parametrize(
    "source",
    [
        "from .. import run",
        "import loop_pool",
        "from loop_pool import run",
        "import loop_pool as l",
    ],
)
def test_an_import_of_the_package_itself_is_found(source: str) -> None:
    sources = {"_pool/pool.py": source, "__init__.py": "from ._pool.pool import run"}
    assert upward(sources) == ["_pool/pool.py imports __init__.py, which is not below it"]


def test_an_import_of_a_room_beside_it_is_found() -> None:
    sources = {"_serve/run.py": "from .. import sync", "sync/__init__.py": ""}
    assert upward(sources) == ["_serve/run.py imports sync/__init__.py, which is not below it"]


def test_a_file_in_no_room_is_found() -> None:
    sources = {"_new/a.py": "from .._loop import tls", "_loop/tls.py": ""}
    assert upward(sources) == ["_new/a.py is in no room"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_pool/pool.py", "from .._loop.tls import start\nfrom . import spawn"),
        ("_pool/pool.py", "from .. import _core\nfrom .._core import LoopCore"),
        ("_loop/streams.py", "import asyncio\nfrom asyncio import _pool\nfrom .tls import start"),
        ("__init__.py", "from ._pool.pool import run\nfrom . import _loop"),
        (
            "_cli/__init__.py",
            "from . import doctor\nfrom .. import _core\nfrom .._pool import pool",
        ),
    ],
)
def test_what_is_allowed_is_not_found(path: str, source: str) -> None:
    others = ("_loop/__init__.py", "_loop/tls.py", "_pool/spawn.py", "_cli/doctor.py")
    sources = dict.fromkeys(others, "") | {"_pool/pool.py": "run = 1"} | {path: source}
    assert upward(sources) == circles(sources) == []


def test_two_files_that_need_each_other_are_found() -> None:
    sources = {
        "_pool/a.py": "from . import b",
        "_pool/b.py": "if TYPE_CHECKING:\n    from .a import A",
        "_pool/c.py": "from . import a, d",
        "_pool/d.py": "",
    }
    assert circles(sources) == [
        "_pool/a.py imports _pool/b.py, and that needs _pool/a.py in turn",
        "_pool/b.py imports _pool/a.py, and that needs _pool/b.py in turn",
    ]


def test_a_circle_of_three_is_found_and_who_only_leads_to_it_is_not() -> None:
    sources = {
        "_pool/a.py": "from .b import x",
        "_pool/b.py": "def f():\n    from .c import x",
        "_pool/c.py": "from .a import x",
        "_pool/lower.py": "",
        "_pool/upper.py": "from . import a, lower",
    }
    assert [line.split()[0] for line in circles(sources)] == [f"_pool/{n}.py" for n in "abc"]


def test_a_long_file_is_found() -> None:
    sources = {"_pool/a.py": "x\n" * MAX_LINES, "_pool/b.py": "x\n" * (MAX_LINES + 1)}
    assert long_files(sources) == [f"_pool/b.py has {MAX_LINES + 1} lines"]
