"""What `tools/sanitize.py` runs is there: a name of a module that is gone would run nothing."""

from __future__ import annotations

import pytest

from ..support import ROOT
from .support import load

(sanitize,) = load("sanitize")


@pytest.mark.parametrize("name", [each for names in sanitize.MIRI_RUNS.values() for each in names])
def test_a_module_that_miri_runs_exists(name: str) -> None:
    path = ROOT / "src" / name.removesuffix("::tests").replace("::", "/")
    assert path.with_suffix(".rs").exists() or (path / "mod.rs").exists()
