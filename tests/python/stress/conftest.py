"""All tests here need the package."""

from __future__ import annotations

from ..support import ORACLE_ONLY

collect_ignore_glob = ["test_*.py"] if ORACLE_ONLY else []
