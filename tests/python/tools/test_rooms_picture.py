"""The picture of the rooms in `docs/architecture.md` is made from the imports that there are."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from ..support import run_python
from .support import TOOLS, load


@pytest.fixture
def rooms() -> ModuleType:
    (module,) = load("rooms")
    return module


def test_the_picture_is_current() -> None:
    checked = run_python(TOOLS / "rooms.py", "--check")
    assert checked.returncode == 0, checked.stderr


def test_an_import_more_makes_another_picture(
    rooms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, native = tmp_path / "python" / "loop_pool", tmp_path / "src" / "py"
    for folder in (package / "_pool", package / "_loop", native / "streams", native / "cpython"):
        folder.mkdir(parents=True)
    (native / "streams" / "reader.rs").write_text("// use crate::py::cpython::names;\n")
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    before = rooms.draw()
    (package / "_pool" / "pool.py").write_text("from .._loop.handles import (\n    Handle,\n)\n")
    assert rooms.python_imports()["_pool"] == {"_loop"}
    with_python = rooms.draw()
    assert with_python != before
    (native / "streams" / "reader.rs").write_text("use crate::py::cpython::names;\n")
    assert rooms.draw() != with_python


def test_a_picture_that_is_not_current_is_told(
    rooms: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "rooms.svg"
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    monkeypatch.setattr(rooms, "PICTURE", picture)
    monkeypatch.setattr(sys, "argv", ["rooms.py", "--check"])
    assert rooms.main() == 1
    picture.write_text(rooms.draw())
    assert rooms.main() == 0
