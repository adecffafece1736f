"""What the tests of the examples share."""

from __future__ import annotations

from ..support import ROOT

EXAMPLES = ROOT / "examples"
