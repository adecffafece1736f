"""What a pool says where Python callbacks take turns, and whom it names for it.

Programs run in processes of their own: nothing here may switch this process's GIL on.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import json
import sys
import textwrap
import types
from typing import Any

import pytest

from ..support import FREE_THREADED, check_script, gil_enabled

loop_pool = pytest.importorskip("loop_pool")
needs_gil = loop_pool._core._needs_gil

free_threaded = pytest.mark.skipif(not FREE_THREADED, reason="this interpreter always has a GIL")

ASKED_FOR = [
    pytest.param({"env": {"PYTHON_GIL": "1"}}, id="PYTHON_GIL"),
    pytest.param({"options": ["-X", "gil=1"]}, id="-X gil"),
]
"""How a GIL is asked for; an interpreter that always has one takes both."""

TURNS = "the loops of the pool take turns at running Python code; only waiting and I/O overlap"

RUN = "loop_pool.run(main(), loops=2)"


def warned(source: str, **more: Any) -> list[dict[str, Any]]:
    """Runs statements in a process of their own; returns the warnings that they gave.

    `main` is a coroutine function that uses the pool's last loop, `switch_gil_on` imports a module
    of CPython's own tests that has no slots and so does not declare that it needs no GIL.
    """
    program = f"""
import asyncio, json, sys, warnings
import loop_pool

async def main():
    loops = loop_pool.current_pool().loops
    return await loop_pool.spawn(asyncio.sleep(0, len(loops)), loop=loops[-1])

def switch_gil_on():
    import importlib.machinery, importlib.util
    name, path = "_testmultiphase_null_slots", importlib.util.find_spec("_testmultiphase").origin
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the interpreter's own
        sys.modules[name] = importlib.util.module_from_spec(spec)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
{textwrap.indent(textwrap.dedent(source), "    ")}
for warning in caught:
    kind, text = warning.category.__name__, str(warning.message)
    print(json.dumps({{"kind": kind, "text": text, "line": warning.lineno}}))
"""
    return [json.loads(line) for line in check_script(program, **more).splitlines()]


# When it is said


@pytest.mark.smoke
@pytest.mark.parametrize("how", ASKED_FOR)
def test_with_a_gil_it_is_said_once_that_callbacks_take_turns_and_why(how: dict[str, Any]) -> None:
    (warning,) = warned(f"for _ in range(2): assert {RUN} == 2", **how)
    assert warning["kind"] == "RuntimeWarning"
    assert warning["text"].endswith(TURNS)
    if FREE_THREADED:
        assert "requested by -X gil=1 or PYTHON_GIL=1" in warning["text"]
    else:
        assert warning["text"].startswith("this Python has a global interpreter lock: ")


@pytest.mark.smoke
@pytest.mark.parametrize("how", ASKED_FOR)
def test_one_loop_takes_no_turns(how: dict[str, Any]) -> None:
    assert warned("assert loop_pool.run(main(), loops=1) == 1", **how) == []


def test_one_loop_does_not_use_the_warning_up() -> None:
    source = f"loop_pool.run(main(), loops=1); {RUN}"
    assert len(warned(source, env={"PYTHON_GIL": "1"})) == 1


@pytest.mark.smoke
@free_threaded
def test_without_a_gil_nothing_is_said() -> None:
    assert warned(f"assert {RUN} == 2") == []


@free_threaded
def test_a_gil_that_was_forbidden_stays_off_whatever_is_imported() -> None:
    source = f"switch_gil_on(); assert not sys._is_gil_enabled(); {RUN}"
    assert warned(source, env={"PYTHON_GIL": "0"}) == []


@pytest.mark.parametrize(
    "call",
    [
        RUN,
        "with loop_pool.Runner(loops=2) as runner: runner.run(main())",
        "runner = loop_pool.Runner(loops=2); runner.get_pool(); runner.close()",
    ],
)
def test_it_is_said_about_the_line_that_starts_the_pool(call: str) -> None:
    source = f"""
        def start():
            print(sys._getframe().f_lineno + 1)
            {call}
        start()
    """
    line, warning = warned(source, env={"PYTHON_GIL": "1"})
    assert warning["line"] == line


def test_made_an_error_it_comes_before_any_thread_starts() -> None:
    source = f"""
        import threading
        warnings.simplefilter("error")
        coroutine = main()
        try:
            {RUN.replace("main()", "coroutine")}
        except RuntimeWarning as error:
            print(json.dumps(str(error)))
        coroutine.close()
        assert threading.active_count() == 1
        assert {RUN} == 2
    """
    (text,) = warned(source, env={"PYTHON_GIL": "1"})
    assert TURNS in text


# Who is named

GIL_SLOT = 87 if sys.version_info >= (3, 15) else 4
GIL_USED, GIL_NOT_USED = 0, 1
OTHER_SLOT = (86 if sys.version_info >= (3, 15) else 3, 2)
"""`Py_mod_gil` and its values; `Py_mod_multiple_interpreters` with one of its own."""


class _Slot(ctypes.Structure):
    _fields_ = (("slot", ctypes.c_int), ("value", ctypes.c_void_p))


class _Definition(ctypes.Structure):
    """A `PyModuleDef`."""

    _fields_ = (
        ("head", ctypes.c_byte * object.__basicsize__),
        ("init", ctypes.c_void_p),
        ("index", ctypes.c_ssize_t),
        ("copy", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("doc", ctypes.c_char_p),
        ("size", ctypes.c_ssize_t),
        ("methods", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("traverse", ctypes.c_void_p),
        ("clear", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


_kept: list[object] = []


def extension_module(*slots: tuple[int, int]) -> types.ModuleType:
    """A module as an extension makes it, with these slots, without the import machinery.

    So the GIL stays off whatever the module says about it.
    """
    table = (_Slot * (len(slots) + 1))(*(_Slot(*slot) for slot in slots))
    definition = _Definition(name=b"made_up", slots=ctypes.addressof(table))
    _kept.append((table, definition))  # for ever, as static data are
    definition_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
        ("PyModule_GetDef", ctypes.pythonapi)
    )
    # The head of another one: it is an object of a type that has no name in Python.
    ctypes.memmove(ctypes.byref(definition), definition_of(sys), object.__basicsize__)
    create = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_int)(
        ("PyModule_FromDefAndSpec2", ctypes.pythonapi)
    )
    spec = importlib.machinery.ModuleSpec("made_up", None)
    module: types.ModuleType = create(ctypes.addressof(definition), spec, sys.api_version)
    return module


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([OTHER_SLOT], True, id="something else"),
        pytest.param([(GIL_SLOT, GIL_USED)], True, id="used"),
        pytest.param([(GIL_SLOT, GIL_NOT_USED)], False, id="not used"),
        pytest.param([OTHER_SLOT, (GIL_SLOT, GIL_NOT_USED)], False, id="not used, second"),
    ],
)
def test_an_extension_module_is_known_by_what_its_slots_declare(
    slots: list[tuple[int, int]], expected: bool
) -> None:
    assert needs_gil(extension_module(*slots)) is expected


@pytest.mark.parametrize("thing", [None, 3, types, types.ModuleType("made_up"), sys])
def test_what_has_no_slots_is_not_accused(thing: object) -> None:
    """Neither what is no extension module, nor one that was initialised in a single phase."""
    assert needs_gil(thing) is False


def test_extension_modules_that_need_no_gil_are_not_accused() -> None:
    import _asyncio
    import _json
    import math

    for module in (_asyncio, _json, math, loop_pool._core):
        assert needs_gil(module) is False, module


@pytest.mark.smoke
@free_threaded
def test_as_long_as_the_gil_is_off_nobody_is_accused() -> None:
    assert not gil_enabled()
    assert loop_pool._pool.gil.modules_that_need_the_gil() == []


def test_imported_modules_that_need_the_gil_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_up_2", extension_module())
    monkeypatch.setitem(sys.modules, "made_up_1", extension_module((GIL_SLOT, GIL_USED)))
    monkeypatch.setitem(sys.modules, "made_up_0", extension_module((GIL_SLOT, GIL_NOT_USED)))
    monkeypatch.setitem(sys.modules, "made_up_none", None)  # keeps it from being imported
    found = loop_pool._pool.gil.modules_that_need_the_gil()
    assert [name for name in found if name.startswith("made_up")] == ["made_up_1", "made_up_2"]


NAMES_TWO = "loop_pool._pool.gil.modules_that_need_the_gil = lambda: ['a_module', 'b.module']"


@free_threaded
def test_modules_that_need_the_gil_are_named() -> None:
    (warning,) = warned(f"switch_gil_on(); {NAMES_TWO}; {RUN}")
    assert "switched on by the import of a_module, b.module" in warning["text"]
    assert warning["text"].endswith(TURNS)


@free_threaded
def test_a_module_that_cannot_be_read_is_not_named() -> None:
    (warning,) = warned(f"switch_gil_on(); assert sys._is_gil_enabled(); {RUN}")
    assert "the module that switched it on is unknown" in warning["text"]
    assert "_testmultiphase" not in warning["text"]


@free_threaded
@pytest.mark.parametrize("how", ASKED_FOR)
def test_nobody_is_named_for_a_gil_that_was_asked_for(how: dict[str, Any]) -> None:
    (warning,) = warned(f"{NAMES_TWO}; {RUN}", **how)
    assert "a_module" not in warning["text"]
    assert "requested by" in warning["text"]


# While another thread imports

IMPORTING = """
import _imp, importlib._bootstrap_external as external, importlib.machinery, threading, time

class Importer(threading.Thread):
    '''Is initialising an extension module until the GIL has been looked at some times.'''
    def __init__(self, stays_on):
        super().__init__(daemon=True)
        self.looks, self.stays_on = 0, stays_on
        self.began, self.end = threading.Event(), threading.Event()
    def run(self):
        _imp.create_dynamic = self.create
        spec = importlib.machinery.ModuleSpec("made_up", None, origin="made_up.so")
        importlib.machinery.ExtensionFileLoader("made_up", "made_up.so").create_module(spec)
    def create(self, spec):
        self.began.set()
        self.end.wait()
    def gil(self):
        self.looks += 1
        if self.looks == 5:
            self.end.set()
            self.join()
        return self.stays_on or not self.end.is_set()

def begin_import(stays_on):
    importer = Importer(stays_on)
    importer.start()
    importer.began.wait()
    sys._is_gil_enabled = importer.gil
"""


@free_threaded
@pytest.mark.parametrize(("stays_on", "count"), [(False, 0), (True, 1)])
def test_a_gil_that_is_on_for_an_import_elsewhere_is_looked_at_again(
    stays_on: bool, count: int
) -> None:
    source = f"exec({IMPORTING!r}); begin_import({stays_on}); {RUN}"
    assert len(warned(source)) == count


@free_threaded
def test_a_false_alarm_does_not_use_the_warning_up() -> None:
    begin = f"exec({IMPORTING!r}); begin_import(False); {RUN}; print(len(caught))"
    early, warning = warned(f"{begin}; begin_import(True); {RUN}")
    assert early == 0
    assert TURNS in warning["text"]
