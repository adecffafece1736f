"""What the tests of `tools/` share."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..support import ROOT

TOOLS = ROOT / "tools"


def load(*names: str) -> list[Any]:
    """The modules of `tools/`, which know each other by these names."""
    sys.path.insert(0, str(TOOLS))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(TOOLS))
