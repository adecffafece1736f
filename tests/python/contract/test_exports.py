"""What the package shows to programs, and what it takes from asyncio's private interface."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from ..support import check_script

loop_pool = pytest.importorskip("loop_pool")
_core = loop_pool._core

PACKAGE = Path(loop_pool.__path__[0])

PUBLIC = [name for name in loop_pool.__all__ if name != "__version__"]

FROM_ANY_THREAD = {
    "LoopStats": "a tuple, which nobody changes",
    "new_event_loop": "makes a new object and shares nothing",
}
"""Public names for which it goes without saying from which thread they may be used, and why."""

SAYS_A_THREAD = re.compile(r"\bthreads?\b|on a loop of the pool", re.IGNORECASE)

FOR_EXTENSIONS = {
    "_enter_task",
    "_get_running_loop",
    "_leave_task",
    "_register_task",
    "_set_running_loop",
    "_unregister_task",
}
"""Underscore names that every module may use: they are made for those who write loops and tasks of
their own. asyncio lists them in its `__all__`, and documents the four for tasks ("Extending") and,
in their docstrings, the two for loops."""


# What is exported


@pytest.mark.smoke
def test_all_is_sorted_and_each_name_in_it_exists() -> None:
    assert loop_pool.__all__ == sorted(set(loop_pool.__all__))
    for name in loop_pool.__all__:
        assert hasattr(loop_pool, name), name


def test_nothing_else_looks_public() -> None:
    shown = {
        name
        for name, value in vars(loop_pool).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    # A few of asyncio's names for makers of tasks begin with an underscore.
    assert shown == {name for name in PUBLIC if not name.startswith("_")}


def test_a_star_import_gives_what_all_says() -> None:
    source = """
        before = set(globals())
        from loop_pool import *
        print(*sorted(set(globals()) - before - {"before"}))
    """
    assert check_script(source).split() == loop_pool.__all__


@pytest.mark.smoke
def test_the_import_needs_nothing_but_the_standard_library() -> None:
    source = """
        import sys
        before = set(sys.modules)
        import loop_pool
        for name in sorted(set(sys.modules) - before):
            path = getattr(sys.modules[name], "__file__", None) or ""
            if "site-packages" in path and not name.startswith("loop_pool"):
                print(name)
    """
    assert check_script(source) == ""


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert loop_pool.__version__ == metadata.version("loop_pool")


# What is documented


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    thing = getattr(loop_pool, name)
    assert inspect.getdoc(thing), name
    for member, value in public_members(thing):
        assert inspect.getdoc(value), f"{name}.{member}"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in FROM_ANY_THREAD])
def test_the_documentation_says_from_which_thread(name: str) -> None:
    """Of a class once for all, or of each of its members."""
    thing = getattr(loop_pool, name)
    if SAYS_A_THREAD.search(thing.__doc__ or ""):
        return
    members = public_members(thing)
    silent = [member for member, value in members if not SAYS_A_THREAD.search(value.__doc__ or "")]
    assert members, f"{name} does not say from which thread it may be called"
    assert not silent, f"{name} does not say from which thread these may be used: {silent}"


def public_members(thing: object) -> list[tuple[str, object]]:
    """What the package itself defines for programs in a class; a function has no members."""
    if not isinstance(thing, type):
        return []
    parts = [cls for cls in own_classes(thing) if cls.__module__ != _core.__name__]
    members = [member for cls in parts for member in vars(cls).items()]
    return [(name, value) for name, value in members if not name.startswith("_")]


def own_classes(cls: type) -> list[type]:
    """The class and those above it that are the package's own, the native half's included."""
    return [each for each in cls.__mro__ if each.__module__.partition(".")[0] == "loop_pool"]


# What is typed


def test_the_marker_and_the_stub_are_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_typed(name: str) -> None:
    """Each parameter and each result; what is native is typed by the stub."""
    thing = getattr(loop_pool, name)
    functions = [thing] if isinstance(thing, FunctionType) else list(python_functions(thing))
    for function in functions:
        signature = inspect.signature(function)
        untyped = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.annotation is parameter.empty and parameter.name not in {"self", "cls"}
        ]
        assert not untyped, f"{function.__qualname__}: {untyped}"
        assert signature.return_annotation is not signature.empty, function.__qualname__


def python_functions(cls: type) -> Iterator[FunctionType]:
    """The functions of a class that are written in this package, those of properties included."""
    members = [value for each in own_classes(cls) for value in vars(each).values()]
    for value in members:
        function = value.fget if isinstance(value, property) else value
        if isinstance(function, FunctionType) and function.__module__.startswith("loop_pool"):
            yield function


def stub_names(body: list[ast.stmt]) -> set[str]:
    """The names that a stub declares."""
    names = set()
    for statement in body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.add(statement.target.id)
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.add(statement.name)
    return names


def test_the_stub_declares_what_the_native_module_holds() -> None:
    """In both directions; `mypy.stubtest`, which compares the signatures, skips private names."""
    stub = ast.parse((PACKAGE / "_core.pyi").read_text())
    assert stub_names(stub.body) == set(_core.__all__)
    for statement in stub.body:
        if isinstance(statement, ast.ClassDef):
            native = {
                name
                for name, value in vars(getattr(_core, statement.name)).items()
                if inspect.isroutine(value) or inspect.isgetsetdescriptor(value)
            }
            native.discard("__weakref__")
            assert stub_names(statement.body) == native, statement.name


def test_the_stub_documents_what_the_native_module_holds() -> None:
    stub = ast.parse((PACKAGE / "_core.pyi").read_text())
    silent = []
    for node in ast.walk(stub):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or ast.get_docstring(node):
            continue
        setter = any(
            ast.unparse(decorator).endswith(".setter") for decorator in node.decorator_list
        )
        if node.name != "__new__" and not setter:  # told by the class and by the getter
            silent.append(node.name)
    assert not silent


# What is taken from asyncio


def modules() -> dict[str, ast.Module]:
    """The syntax trees of the package's modules, by path."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(PACKAGE).as_posix(): ast.parse(file.read_text()) for file in files}


def own_names() -> set[str]:
    """What the package defines somewhere, its native half included."""
    trees = [ast.parse((PACKAGE / "_core.pyi").read_text()), *modules().values()]
    return {name for tree in trees for name in names_bound_in(tree)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_of_asyncio(tree: ast.Module) -> set[str]:
    """The underscore names that a module imports from asyncio, or looks up in one of its modules.

    Modules are followed through `import asyncio as a`, `from asyncio import events` and
    `asyncio.events`.
    """
    found = set()
    aliases = {}  # local name -> module of asyncio
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                if root == "_asyncio":
                    found.add("_asyncio")
                elif root == "asyncio":
                    aliases[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            if node.module.partition(".")[0] == "_asyncio":
                found.add("_asyncio")
            elif node.module.partition(".")[0] == "asyncio":
                for alias in node.names:
                    path = f"{node.module}.{alias.name}"
                    found.update(path.split("."))
                    aliases[alias.asname or alias.name] = path
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            found |= set(private_path(aliases.get(first), rest))
    return {name for name in found if is_private(name)}


def private_path(module: str | None, names: list[str]) -> Iterator[str]:
    """The underscore names in `module.names`, as far as the names lead through modules."""
    for name in names:
        if module is None:
            return
        if is_private(name):
            yield name
        module = f"{module}.{name}"
        try:
            importlib.import_module(module)
        except ImportError:
            return


def names_bound_in(tree: ast.AST) -> Iterator[str]:
    """What a module defines or assigns, except what it merely declares for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        yield from names_bound_in(node)


def foreign_attributes(tree: ast.Module, own: set[str]) -> set[str]:
    """The underscore attributes that a module reads and that nobody in the package defines.

    The interpreter's own `sys._is_gil_enabled`, `os._exit` and their like are documented, and so
    are the methods of named tuples.
    """
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and node.attr not in own
        and node.attr not in {"_asdict", "_replace"}
        and ast.unparse(node.value) not in {"os", "sys"}
    }


def test_names_for_extensions_are_asyncio_s_own_choice() -> None:
    assert set(asyncio.__all__) >= FOR_EXTENSIONS


PRIVATE_INTERFACE = (
    "_loop/event_loop.py",
    "_loop/signals.py",
    "_loop/socket_ops.py",
    "_loop/executor_calls.py",
    "_loop/asyncio_private.py",
    "_loop/tls.py",
    "_loop/tls_certificates.py",
    "_loop/tls_context.py",
    "_loop/tls_transport.py",
)
"""The modules that may use asyncio's private interface, each of which lists what it uses."""


def test_only_those_modules_use_asyncio_s_private_names() -> None:
    for path, tree in modules().items():
        if path not in PRIVATE_INTERFACE:
            assert private_names_of_asyncio(tree) <= FOR_EXTENSIONS, path


def test_only_those_modules_read_private_attributes_that_are_not_ours() -> None:
    own = own_names()
    for path, tree in modules().items():
        if path not in PRIVATE_INTERFACE:
            assert foreign_attributes(tree, own) <= FOR_EXTENSIONS, path


@pytest.mark.parametrize(
    "module",
    [
        *("asyncio_private", "executor_calls", "signals", "socket_ops"),
        *("tls", "tls_certificates", "tls_context", "tls_transport"),
    ],
)
def test_the_modules_of_it_list_what_they_use(module: str) -> None:
    tree = modules()[f"_loop/{module}.py"]
    read = private_names_of_asyncio(tree) | foreign_attributes(tree, own_names())
    listed = set(re.findall(r"\w+", getattr(loop_pool._loop, module).__doc__))
    assert read <= listed | FOR_EXTENSIONS


def test_tls_lists_what_it_replaces() -> None:
    """Slots and methods of asyncio's classes, in its docstring."""
    listed = set(re.findall(r"\w+", loop_pool._loop.tls.__doc__))
    replaced = {
        name
        for cls in (loop_pool._loop.tls.SSLProtocol, loop_pool._loop.tls.SSLTransport)
        for name in vars(cls)
        if is_private(name) and (name in dir(cls.__base__) or name in cls.__slots__)
    }
    assert replaced - listed <= {"_openssl"}


def test_the_event_loop_lists_what_it_uses() -> None:
    """In its docstring or that of a part, where a new Python version is compared first."""
    tree = modules()["_loop/event_loop.py"]
    read = private_names_of_asyncio(tree) | foreign_attributes(tree, own_names())
    overridden = {
        name
        for cls in own_classes(loop_pool.EventLoop)
        for name in vars(cls)
        if is_private(name) and hasattr(asyncio.SelectorEventLoop, name)
    }
    docs = [sys.modules[cls.__module__].__doc__ or "" for cls in own_classes(loop_pool.EventLoop)]
    listed = set(re.findall(r"\w+", " ".join(docs)))
    slots = set(asyncio.Handle.__slots__)
    assert read | overridden <= listed | slots | FOR_EXTENSIONS


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import asyncio\nasyncio._get_running_loop()", {"_get_running_loop"}),
        ("import asyncio as a\nprint(a.events._lock)", {"_lock"}),
        ("import asyncio.events\nasyncio.events._lock.acquire()", {"_lock"}),
        ("from asyncio import base_events as b\nb._format_pipe", {"_format_pipe"}),
        ("from asyncio.tasks import _scheduled_tasks as s", {"_scheduled_tasks"}),
        ("def f():\n    from _asyncio import Task", {"_asyncio"}),
        ("import asyncio\nasyncio.sleep(0).x._y\nother._z", set()),
        ("from . import asyncio\nasyncio._x", set()),
    ],
)
def test_a_private_name_of_asyncio_is_found(source: str, names: set[str]) -> None:
    assert private_names_of_asyncio(ast.parse(source)) == names


def test_a_private_attribute_of_somebody_else_is_found() -> None:
    source = "class A:\n    def _mine(self): self._also = task._coro\nloop._ready\nx._mine\ny._also"
    tree = ast.parse(f"{source}\nif TYPE_CHECKING:\n    _ready: int")
    assert foreign_attributes(tree, set(names_bound_in(tree))) == {"_coro", "_ready"}
