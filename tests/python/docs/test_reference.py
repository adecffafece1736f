"""The examples of `docs/reference.md`: each public name has one, and each prints what it says."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

import loop_pool
from loop_pool import _core

from ..support import ROOT

pytestmark = pytest.mark.usefixtures("clean_process")

PAGE = ROOT / "docs" / "reference.md"

EXAMPLE = re.compile(
    r"^### (?P<name>[^\n]+)\n.*?"
    r"^```python\n(?P<code>.*?)^```\n+^```text\n(?P<out>.*?)^```",
    re.MULTILINE | re.DOTALL,
)

EXAMPLES = {found["name"]: found for found in EXAMPLE.finditer(PAGE.read_text())}


def test_each_public_name_has_an_example() -> None:
    heads = set(re.findall(r"\w+", " ".join(EXAMPLES)))
    makers = EXAMPLES["Custom task classes"]["code"]
    names = {name for name in loop_pool.__all__ if name != "__version__"}
    assert names <= heads | set(re.findall(r"\w+", makers))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_prints_what_the_page_says(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch, logged_errors: list[str]
) -> None:
    """With as many loops as the test says, where the example leaves it to the machine."""
    given = _core._loop_count
    monkeypatch.setattr(
        _core, "_loop_count", lambda loops: given(count if loops is None else loops)
    )
    if name in {"serve", "StartupError"}:
        pytest.importorskip("uvicorn")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = compile(EXAMPLES[name]["code"], f"{PAGE.name}: {name}", "exec")
        exec(code, {"__name__": "__main__"})
    assert printed.getvalue().strip() == EXAMPLES[name]["out"].strip()
    if name == "StuckLoop":
        logged_errors.clear()
